"""The states of a rollout and the way from one to the next. Pure: no database, no clock.

| from | event | to |
|---|---|---|
| preparing | candidate loaded | stepping, first step |
| stepping | pause of the step over | next step; promoted after the last |
| preparing, stepping | pause | paused |
| paused | resume | preparing or stepping, as before |
| stepping, paused | advance | next step |
| stepping, paused | promote (at the last step), force (before it) | promoted |
| preparing, stepping, paused | abort, candidate failed | aborted |
| promoted | undo | undone |
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

ALL = 100  # percent; as in catalog/routes.py, which knows a database
MAX_STEPS = 10
MAX_PAUSE_SECONDS = 7 * 24 * 3600
NOT_STARTED = -1  # the index before the first step


class RolloutState(StrEnum):
    PREPARING = "preparing"  # the candidate loads; it answers nothing yet
    STEPPING = "stepping"
    PAUSED = "paused"  # held where it is, by a person or for want of a proof
    PROMOTED = "promoted"
    ABORTED = "aborted"
    UNDONE = "undone"  # promoted, and taken back


ACTIVE = (RolloutState.PREPARING, RolloutState.STEPPING, RolloutState.PAUSED)


class RolloutEvent(StrEnum):
    READY = "ready"  # the candidate is loaded
    TIMER_ELAPSED = "passed"  # the pause of the step is over
    FAILED = "failed"  # the candidate's engine failed
    PAUSE = "pause"
    RESUME = "resume"
    ADVANCE = "advance"  # to the next step, whatever is left of the pause
    PROMOTE = "promote"  # at the last step
    FORCE = "force"  # promote before the last step
    ABORT = "abort"
    UNDO = "undo"


@dataclass(frozen=True, slots=True)
class Step:
    """The candidate's share in percent, and how long it lasts; None: until a person goes on."""

    weight: int
    pause_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class RolloutPosition:
    """Where a rollout is."""

    steps: tuple[Step, ...]
    state: RolloutState
    index: int  # of the step that is on; NOT_STARTED before the first
    state_since: datetime
    step_since: datetime  # moved on by the time that was spent in a pause

    @property
    def weight(self) -> int | None:
        """The candidate's share in percent; None: the route is as it was before the rollout."""
        match self.state:
            case RolloutState.PROMOTED:
                return ALL
            case RolloutState.ABORTED | RolloutState.UNDONE:
                return None
        return 0 if self.index == NOT_STARTED else self.steps[self.index].weight

    @property
    def is_at_last(self) -> bool:
        return self.index == len(self.steps) - 1

    def seconds_left(self, now: datetime) -> float | None:
        """Of the step's pause, 0 when it is over; None: it waits for a person."""
        if self.state not in (RolloutState.STEPPING, RolloutState.PAUSED) or self.index == NOT_STARTED:
            return None
        pause = self.steps[self.index].pause_seconds
        if pause is None:
            return None
        until = self.state_since if self.state is RolloutState.PAUSED else now
        return max(0.0, (self.step_since + timedelta(seconds=pause) - until).total_seconds())


class BadSteps(ValueError):
    """Steps that cannot be; the message says why."""


class EventNotPossible(ValueError):
    """An event that the state does not know."""

    def __init__(self, state: RolloutState, event: RolloutEvent) -> None:
        super().__init__(f"{event.value} is not possible while the rollout is {state.value}")


def check_steps(steps: Sequence[Step]) -> None:
    """Raises `BadSteps`."""
    if not 1 <= len(steps) <= MAX_STEPS:
        raise BadSteps(f"a rollout has 1 to {MAX_STEPS} steps")
    before = 0
    for step in steps:
        if not before < step.weight <= ALL:
            raise BadSteps("the shares of the steps grow, from 1 to 100 %")
        if step.pause_seconds is not None and not 1 <= step.pause_seconds <= MAX_PAUSE_SECONDS:
            raise BadSteps("a pause lasts from one second to seven days")
        before = step.weight


def begin(steps: Sequence[Step], *, now: datetime) -> RolloutPosition:
    check_steps(steps)
    return RolloutPosition(tuple(steps), RolloutState.PREPARING, NOT_STARTED, state_since=now, step_since=now)


def transition(position: RolloutPosition, event: RolloutEvent, now: datetime) -> RolloutPosition:
    """What becomes of it. Raises `EventNotPossible`."""
    match position.state, event:
        case (RolloutState.PREPARING, RolloutEvent.READY):
            return _next_step(position, now)
        case (RolloutState.STEPPING, RolloutEvent.TIMER_ELAPSED) if position.seconds_left(now) == 0:
            return (
                _enter(position, RolloutState.PROMOTED, now)
                if position.is_at_last
                else _next_step(position, now)
            )
        case (RolloutState.PREPARING | RolloutState.STEPPING, RolloutEvent.PAUSE):
            return _enter(position, RolloutState.PAUSED, now)
        case (RolloutState.PAUSED, RolloutEvent.RESUME):
            state = RolloutState.PREPARING if position.index == NOT_STARTED else RolloutState.STEPPING
            lasted = max(now - position.state_since, timedelta(0))
            return replace(_enter(position, state, now), step_since=position.step_since + lasted)
        case (RolloutState.STEPPING | RolloutState.PAUSED, RolloutEvent.ADVANCE) if (
            _has_begun(position) and not position.is_at_last
        ):
            return _next_step(position, now)
        case (RolloutState.STEPPING | RolloutState.PAUSED, RolloutEvent.PROMOTE) if position.is_at_last:
            return _enter(position, RolloutState.PROMOTED, now)
        case (RolloutState.STEPPING | RolloutState.PAUSED, RolloutEvent.FORCE) if _has_begun(position):
            return _enter(position, RolloutState.PROMOTED, now)
        case (
            RolloutState.PREPARING | RolloutState.STEPPING | RolloutState.PAUSED,
            RolloutEvent.ABORT | RolloutEvent.FAILED,
        ):
            return _enter(position, RolloutState.ABORTED, now)
        case (RolloutState.PROMOTED, RolloutEvent.UNDO):
            return _enter(position, RolloutState.UNDONE, now)
    raise EventNotPossible(position.state, event)


def _has_begun(position: RolloutPosition) -> bool:
    return position.index != NOT_STARTED


def _enter(position: RolloutPosition, state: RolloutState, now: datetime) -> RolloutPosition:
    return replace(position, state=state, state_since=now)


def _next_step(position: RolloutPosition, now: datetime) -> RolloutPosition:
    return replace(
        position, state=RolloutState.STEPPING, index=position.index + 1, state_since=now, step_since=now
    )
