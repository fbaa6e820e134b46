"""The states of a rollout and the way from one to the next. Pure: no database, no clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

ALL = 100  # percent
MAX_STEPS = 10
MAX_PAUSE_SECONDS = 7 * 24 * 3600
NOT_YET = -1  # the index before the first step


class State(StrEnum):
    PREPARING = "preparing"  # the candidate loads; it answers nothing yet
    STEPPING = "stepping"
    PAUSED = "paused"  # held where it is, by a person or for want of a proof
    PROMOTED = "promoted"
    ABORTED = "aborted"
    UNDONE = "undone"  # promoted, and taken back


ACTIVE = (State.PREPARING, State.STEPPING, State.PAUSED)


class Event(StrEnum):
    READY = "ready"  # the candidate is loaded
    PASSED = "passed"  # the pause of the step is over
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
class Standing:
    """Where a rollout is."""

    steps: tuple[Step, ...]
    state: State
    index: int  # of the step that is on; NOT_YET before the first
    state_since: datetime
    step_since: datetime  # moved on by the time that was spent in a pause

    @property
    def weight(self) -> int | None:
        """The candidate's share in percent; None: the route is as it was before the rollout."""
        match self.state:
            case State.PROMOTED:
                return ALL
            case State.ABORTED | State.UNDONE:
                return None
        return 0 if self.index == NOT_YET else self.steps[self.index].weight

    @property
    def is_at_last(self) -> bool:
        return self.index == len(self.steps) - 1

    def seconds_left(self, now: datetime) -> float | None:
        """Of the step's pause, 0 when it is over; None: it waits for a person."""
        if self.state not in (State.STEPPING, State.PAUSED) or self.index == NOT_YET:
            return None
        pause = self.steps[self.index].pause_seconds
        if pause is None:
            return None
        until = self.state_since if self.state is State.PAUSED else now
        return max(0.0, (self.step_since + timedelta(seconds=pause) - until).total_seconds())


class BadSteps(ValueError):
    """Steps that cannot be; the message says why."""


class NotPossible(ValueError):
    """An event that the state does not know."""

    def __init__(self, state: State, event: Event) -> None:
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


def begin(steps: Sequence[Step], *, now: datetime) -> Standing:
    check_steps(steps)
    return Standing(tuple(steps), State.PREPARING, NOT_YET, state_since=now, step_since=now)


def transition(standing: Standing, event: Event, now: datetime) -> Standing:
    """What becomes of it. Raises `NotPossible`."""
    match standing.state, event:
        case (State.PREPARING, Event.READY):
            return _next_step(standing, now)
        case (State.STEPPING, Event.PASSED) if standing.seconds_left(now) == 0:
            return _enter(standing, State.PROMOTED, now) if standing.is_at_last else _next_step(standing, now)
        case (State.PREPARING | State.STEPPING, Event.PAUSE):
            return _enter(standing, State.PAUSED, now)
        case (State.PAUSED, Event.RESUME):
            state = State.PREPARING if standing.index == NOT_YET else State.STEPPING
            lasted = max(now - standing.state_since, timedelta(0))
            return replace(_enter(standing, state, now), step_since=standing.step_since + lasted)
        case (State.STEPPING | State.PAUSED, Event.ADVANCE) if (
            _has_begun(standing) and not standing.is_at_last
        ):
            return _next_step(standing, now)
        case (State.STEPPING | State.PAUSED, Event.PROMOTE) if standing.is_at_last:
            return _enter(standing, State.PROMOTED, now)
        case (State.STEPPING | State.PAUSED, Event.FORCE) if _has_begun(standing):
            return _enter(standing, State.PROMOTED, now)
        case (State.PREPARING | State.STEPPING | State.PAUSED, Event.ABORT | Event.FAILED):
            return _enter(standing, State.ABORTED, now)
        case (State.PROMOTED, Event.UNDO):
            return _enter(standing, State.UNDONE, now)
    raise NotPossible(standing.state, event)


def _has_begun(standing: Standing) -> bool:
    return standing.index != NOT_YET


def _has_next(standing: Standing) -> bool:
    return _has_begun(standing) and not standing.is_at_last


def _enter(standing: Standing, state: State, now: datetime) -> Standing:
    return replace(standing, state=state, state_since=now)


def _next_step(standing: Standing, now: datetime) -> Standing:
    return replace(standing, state=State.STEPPING, index=standing.index + 1, state_since=now, step_since=now)
