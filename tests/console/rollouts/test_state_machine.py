"""The states of a rollout: every walk through them is legal, ends once, and its shares sum to 100."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console.rollouts.shares import answering, with_candidate
from console.rollouts.state_machine import (
    ACTIVE,
    ALL,
    NOT_STARTED,
    BadSteps,
    EventNotPossible,
    RolloutEvent,
    RolloutPosition,
    RolloutState,
    Step,
    begin,
    transition,
)

START = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
STEPS = (Step(10, 60), Step(50, 60), Step(100))

weights = st.lists(st.integers(1, ALL), min_size=1, max_size=10, unique=True).map(sorted)
steps_of = weights.flatmap(
    lambda shares: st.tuples(
        *(st.builds(Step, st.just(share), st.none() | st.integers(1, 900)) for share in shares)
    )
)
walks = st.lists(st.tuples(st.sampled_from(RolloutEvent), st.integers(0, 1000)), max_size=40)


def walk(*events: RolloutEvent | int, steps: tuple[Step, ...] = STEPS) -> RolloutPosition:
    """Where the events lead; a number lets that many seconds pass."""
    now, position = START, begin(steps, now=START)
    for event in events:
        if isinstance(event, int):
            now += timedelta(seconds=event)
        else:
            position = transition(position, event, now)
    return position


@given(steps=steps_of, events=walks)
def test_every_walk_is_legal(steps: tuple[Step, ...], events: list[tuple[RolloutEvent, int]]) -> None:
    now, position = START, begin(steps, now=START)
    for event, seconds in events:
        now += timedelta(seconds=seconds)
        before = position
        try:
            position = transition(before, event, now)
        except EventNotPossible:
            assert position == before
            continue
        assert position.state_since == now
        assert before.state in (*ACTIVE, RolloutState.PROMOTED), "an end is an end"
        assert position.index in (before.index, before.index + 1)
        assert NOT_STARTED <= position.index < len(steps)
        assert START <= position.step_since <= now
        if position.state is RolloutState.STEPPING:
            assert position.weight == steps[position.index].weight >= (before.weight or 0)
        if position.state is RolloutState.UNDONE:
            assert before.state is RolloutState.PROMOTED


@given(
    parts=st.dictionaries(st.sampled_from("abcde"), st.integers(1, 60), min_size=1, max_size=4),
    growth=st.lists(st.integers(0, ALL), max_size=6),
)
def test_shares_sum_to_100_and_arms_keep_their_order(parts: dict[str, int], growth: list[int]) -> None:
    total = sum(parts.values())
    before = {name: part * ALL // total for name, part in parts.items()}
    before[next(iter(before))] += ALL - sum(before.values())
    before = answering(before)
    for weight in growth:
        after = with_candidate(before, "candidate", weight)
        assert sum(after.values()) == ALL and min(after.values()) >= 0
        assert list(after) == [*before, "candidate"]
        assert after["candidate"] == weight


def test_a_candidate_that_has_a_share_already_takes_it_from_the_others() -> None:
    assert with_candidate({"old": 60, "new": 20, "other": 20}, "new", 60) == {
        "old": 30,
        "new": 60,
        "other": 10,
    }
    assert with_candidate({"old": 90, "new": 10}, "new", 100) == {"old": 0, "new": 100}


def test_the_pauses_lead_to_the_last_step_which_waits_for_a_person() -> None:
    position = walk(RolloutEvent.READY, 60, RolloutEvent.TIMER_ELAPSED, 60, RolloutEvent.TIMER_ELAPSED)
    assert (position.state, position.weight, position.is_at_last) == (RolloutState.STEPPING, 100, True)
    assert position.seconds_left(START + timedelta(days=9)) is None
    assert transition(position, RolloutEvent.PROMOTE, START).state is RolloutState.PROMOTED


def test_a_last_pause_that_passes_promotes() -> None:
    assert (
        walk(RolloutEvent.READY, 9, RolloutEvent.TIMER_ELAPSED, steps=(Step(50, 9),)).state
        is RolloutState.PROMOTED
    )


def test_a_pause_that_is_not_over_does_not_pass() -> None:
    with pytest.raises(EventNotPossible):
        walk(RolloutEvent.READY, 59, RolloutEvent.TIMER_ELAPSED)


def test_the_time_of_a_pause_does_not_count() -> None:
    held = walk(RolloutEvent.READY, 20, RolloutEvent.PAUSE, 1000)
    assert held.seconds_left(START + timedelta(seconds=1020)) == 40
    going = walk(RolloutEvent.READY, 20, RolloutEvent.PAUSE, 1000, RolloutEvent.RESUME)
    assert going.seconds_left(START + timedelta(seconds=1020)) == 40
    assert going.seconds_left(START + timedelta(seconds=1061)) == 0


def test_a_candidate_that_is_not_loaded_gets_nothing_whatever_people_ask() -> None:
    for event in (
        RolloutEvent.ADVANCE,
        RolloutEvent.PROMOTE,
        RolloutEvent.FORCE,
        RolloutEvent.TIMER_ELAPSED,
        RolloutEvent.UNDO,
    ):
        for way in ((), (RolloutEvent.PAUSE,)):
            with pytest.raises(EventNotPossible):
                walk(*way, event)
    assert walk(RolloutEvent.PAUSE, RolloutEvent.RESUME).state is RolloutState.PREPARING


def test_only_the_last_step_is_promoted_unless_it_is_forced() -> None:
    with pytest.raises(EventNotPossible):
        walk(RolloutEvent.READY, RolloutEvent.PROMOTE)
    assert walk(RolloutEvent.READY, RolloutEvent.FORCE).weight == 100


@pytest.mark.parametrize(
    "steps", [(), (Step(0),), (Step(101),), (Step(50), Step(10)), (Step(10, 0),), (Step(9),) * 11]
)
def test_steps_that_cannot_be_are_refused(steps: tuple[Step, ...]) -> None:
    with pytest.raises(BadSteps):
        begin(steps, now=START)
