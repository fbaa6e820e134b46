"""Prefill beside decode: filled steps while many wait, short pauses in steady decode."""

from __future__ import annotations

import pytest

from inference.protocol.requests import GenerateRequest, Owner
from inference.scheduling.prefill_budget import LONGEST, SMALLEST, PrefillBudget, StepBudget, share, within
from inference.scheduling.sequence import Sequence
from inference.scheduling.step_plan import ScheduledChunk

MAX_TOKENS = 4096


def sequence(num_tokens: int = 8192) -> Sequence:
    token_ids = (1,) * num_tokens
    request = GenerateRequest(request_id="a", revision="r", token_ids=token_ids, owner=Owner("o", salt=""))
    return Sequence(request, arrived_at=0.0, max_tokens=1, seed=0)


def chunk(num_tokens: int) -> ScheduledChunk:
    return ScheduledChunk(sequence(), 0, num_tokens)


LONG = [sequence(16384)]


def measured(*, decode: float, per_token: float, num_decoding: int = 64) -> PrefillBudget:
    """After steps of which each decode takes `decode` seconds, and each prompt token adds `per_token`."""
    steps = PrefillBudget(max_batch_tokens=MAX_TOKENS)
    chunks = [chunk(1)] * num_decoding
    for _ in range(20):
        steps.observe(chunks, decode)
        steps.observe([*chunks, chunk(1024)], decode + 1024 * per_token)
    return steps


def test_nothing_is_held_back_before_anything_was_measured() -> None:
    steps = PrefillBudget(max_batch_tokens=MAX_TOKENS)
    assert steps.budget(num_decoding=64, waiting=LONG) == StepBudget(MAX_TOKENS - 64)


def test_in_steady_decode_a_step_takes_no_longer_than_promised() -> None:
    steps = measured(decode=0.007, per_token=24e-6)
    budget = steps.budget(num_decoding=64, waiting=LONG)
    assert budget.is_shared
    assert 0.007 + budget.num_tokens * 24e-6 == pytest.approx(LONGEST * 0.007, rel=0.02)


def test_where_a_step_would_end_the_wait_of_many_it_is_filled() -> None:
    steps = measured(decode=0.007, per_token=24e-6)
    many, one = [sequence(350) for _ in range(128)], [sequence(350)]
    assert steps.budget(num_decoding=150, waiting=many) == StepBudget(11 * 350)
    assert steps.budget(num_decoding=150, waiting=[*many[:10], *LONG]) == StepBudget(10 * 350)
    assert steps.budget(num_decoding=200, waiting=one).num_tokens < 1000
    assert steps.budget(num_decoding=0, waiting=LONG) == StepBudget(MAX_TOKENS)


def test_no_step_is_filled_for_those_whom_a_few_short_ones_serve() -> None:
    """Four of 64: each stream would pause for longer than promised, to save them three steps."""
    steps = measured(decode=0.009, per_token=24e-6)
    budget = steps.budget(num_decoding=60, waiting=[sequence(512) for _ in range(4)])
    assert budget.is_shared
    assert 0.009 + budget.num_tokens * 24e-6 == pytest.approx(LONGEST * 0.009, rel=0.02)
    assert steps.budget(num_decoding=60, waiting=[sequence(512) for _ in range(6)]) == StepBudget(6 * 512)


def test_tokens_that_cost_more_and_more_are_counted_as_the_costlier_ones() -> None:
    """Those of a long prompt do: each attends to all before it."""
    steps = PrefillBudget(max_batch_tokens=MAX_TOKENS)
    chunks = [chunk(1)] * 64
    for index in range(15):
        steps.observe(chunks, 0.009)
        steps.observe([*chunks, chunk(512)], 0.009 + 512 * (20e-6 + index * 2e-6))
    budget = steps.budget(num_decoding=64, waiting=LONG)
    assert 0.009 + budget.num_tokens * 48e-6 < 1.1 * LONGEST * 0.009


def test_first_tokens_are_counted_in_order_and_only_where_a_whole_prompt_fits() -> None:
    lengths = [sequence(300), sequence(600), sequence(400)]
    assert [within(lengths, room) for room in (599, 600, 1299, 1300)] == [
        (0, 0),
        (1, 300),
        (2, 900),
        (3, 1300),
    ]
    assert within([*lengths, sequence(1000)], 1999) == (3, 1300)


def test_a_prompt_always_moves_on() -> None:
    slow = measured(decode=0.007, per_token=1e-3)
    assert slow.budget(num_decoding=64, waiting=LONG) == StepBudget(SMALLEST, is_shared=True)
    assert slow.budget(num_decoding=MAX_TOKENS - 10, waiting=LONG) == StepBudget(10, is_shared=True)


def test_a_single_disturbed_step_changes_nothing() -> None:
    steps = measured(decode=0.007, per_token=24e-6)
    before = steps.budget(num_decoding=64, waiting=LONG).num_tokens
    steps.observe([chunk(1)] * 64, 3.0)
    steps.observe([*[chunk(1)] * 64, chunk(1024)], 9.0)
    assert steps.budget(num_decoding=64, waiting=LONG).num_tokens == pytest.approx(before, rel=0.02)


def test_a_prompt_leaves_half_of_a_short_step_to_the_next() -> None:
    assert [share(budget) for budget in (600, 100, 64, 10, 0)] == [300, 64, 64, 10, 0]
