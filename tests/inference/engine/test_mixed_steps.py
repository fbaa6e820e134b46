"""Prefill beside decode: filled steps while many wait, short pauses in steady decode."""

from __future__ import annotations

import pytest

from inference.engine.mixed_steps import LONGEST, SMALLEST, MixedSteps
from inference.engine.sequence import Row, Sequence
from inference.protocol import GenerateRequest, Owner

MAX_TOKENS = 4096


def row(num_tokens: int) -> Row:
    request = GenerateRequest(request_id="a", revision="r", token_ids=(1,) * 8192, owner=Owner("o", salt=""))
    return Row(Sequence(request, arrived_at=0.0, max_tokens=1, seed=0), 0, num_tokens)


def measured(*, decode: float, per_token: float, num_decoding: int = 64) -> MixedSteps:
    """After steps of which each decode takes `decode` seconds, and each prompt token adds `per_token`."""
    steps = MixedSteps(max_batch_tokens=MAX_TOKENS)
    rows = [row(1)] * num_decoding
    for _ in range(20):
        steps.observe(rows, decode)
        steps.observe([*rows, row(1024)], decode + 1024 * per_token)
    return steps


def test_nothing_is_held_back_before_anything_was_measured() -> None:
    assert MixedSteps(max_batch_tokens=MAX_TOKENS).budget(num_decoding=64, num_waiting=1) == MAX_TOKENS - 64


def test_in_steady_decode_a_step_takes_no_longer_than_promised() -> None:
    steps = measured(decode=0.007, per_token=24e-6)
    budget = steps.budget(num_decoding=64, num_waiting=2)
    assert 0.007 + budget * 24e-6 == pytest.approx(LONGEST * 0.007, rel=0.02)


def test_when_as_many_wait_as_decode_steps_are_filled() -> None:
    steps = measured(decode=0.007, per_token=24e-6)
    assert steps.budget(num_decoding=64, num_waiting=64) == MAX_TOKENS - 64
    assert steps.budget(num_decoding=0, num_waiting=1) == MAX_TOKENS


def test_a_prompt_always_moves_on() -> None:
    slow = measured(decode=0.007, per_token=1e-3)
    assert slow.budget(num_decoding=64, num_waiting=1) == SMALLEST
    assert slow.budget(num_decoding=MAX_TOKENS - 10, num_waiting=1) == 10


def test_a_single_disturbed_step_changes_nothing() -> None:
    steps = measured(decode=0.007, per_token=24e-6)
    before = steps.budget(num_decoding=64, num_waiting=1)
    steps.observe([row(1)] * 64, 3.0)
    steps.observe([*[row(1)] * 64, row(1024)], 9.0)
    assert steps.budget(num_decoding=64, num_waiting=1) == pytest.approx(before, rel=0.02)
