"""Prefill beside decode: filled steps while many wait, short pauses in steady decode."""

from __future__ import annotations

import pytest

from inference.engine.mixed_steps import LONGEST, SMALLEST, MixedSteps, within
from inference.engine.sequence import Row, Sequence
from inference.protocol import GenerateRequest, Owner

MAX_TOKENS = 4096


def sequence(num_tokens: int = 8192) -> Sequence:
    token_ids = (1,) * num_tokens
    request = GenerateRequest(request_id="a", revision="r", token_ids=token_ids, owner=Owner("o", salt=""))
    return Sequence(request, arrived_at=0.0, max_tokens=1, seed=0)


def row(num_tokens: int) -> Row:
    return Row(sequence(), 0, num_tokens)


LONG = [sequence(16384)]


def measured(*, decode: float, per_token: float, num_decoding: int = 64) -> MixedSteps:
    """After steps of which each decode takes `decode` seconds, and each prompt token adds `per_token`."""
    steps = MixedSteps(max_batch_tokens=MAX_TOKENS)
    rows = [row(1)] * num_decoding
    for _ in range(20):
        steps.observe(rows, decode)
        steps.observe([*rows, row(1024)], decode + 1024 * per_token)
    return steps


def test_nothing_is_held_back_before_anything_was_measured() -> None:
    assert MixedSteps(max_batch_tokens=MAX_TOKENS).budget(num_decoding=64, waiting=LONG) == MAX_TOKENS - 64


def test_in_steady_decode_a_step_takes_no_longer_than_promised() -> None:
    steps = measured(decode=0.007, per_token=24e-6)
    budget = steps.budget(num_decoding=64, waiting=LONG)
    assert 0.007 + budget * 24e-6 == pytest.approx(LONGEST * 0.007, rel=0.02)


def test_where_a_step_would_end_the_wait_of_many_it_is_filled() -> None:
    steps = measured(decode=0.007, per_token=24e-6)
    many, one = [sequence(350) for _ in range(128)], [sequence(350)]
    assert steps.budget(num_decoding=150, waiting=many) == 11 * 350
    assert steps.budget(num_decoding=150, waiting=[*many[:10], *LONG]) == 10 * 350
    assert steps.budget(num_decoding=200, waiting=one) < 1000
    assert steps.budget(num_decoding=0, waiting=LONG) == MAX_TOKENS


def test_first_tokens_are_counted_in_order_and_only_where_a_whole_prompt_fits() -> None:
    lengths = [sequence(300), sequence(600), sequence(400)]
    assert [within(lengths, room) for room in (299, 300, 899, 900)] == [(0, 0), (1, 300), (1, 300), (2, 900)]


def test_a_prompt_always_moves_on() -> None:
    slow = measured(decode=0.007, per_token=1e-3)
    assert slow.budget(num_decoding=64, waiting=LONG) == SMALLEST
    assert slow.budget(num_decoding=MAX_TOKENS - 10, waiting=LONG) == 10


def test_a_single_disturbed_step_changes_nothing() -> None:
    steps = measured(decode=0.007, per_token=24e-6)
    before = steps.budget(num_decoding=64, waiting=LONG)
    steps.observe([row(1)] * 64, 3.0)
    steps.observe([*[row(1)] * 64, row(1024)], 9.0)
    assert steps.budget(num_decoding=64, waiting=LONG) == pytest.approx(before, rel=0.02)
