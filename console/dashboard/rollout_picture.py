"""How a rollout is drawn: its shares as one bar, its steps in a row."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from console.rollouts.state_machine import RolloutPosition, RolloutState

COLOURS = "abcd"


@dataclass(frozen=True, slots=True)
class Part:
    """A revision's part of the bar, in percent."""

    revision: str
    weight: int
    start: int
    colour: str


@dataclass(frozen=True, slots=True)
class StepView:
    """A step of the row: done, on, or still to come."""

    weight: int
    pause_seconds: int | None
    position: Literal["done", "on", "next"]
    seconds_left: float | None = None
    done_percent: float = 0.0


def bar(shares: Mapping[str, int], *, order: Iterable[str] = ()) -> list[Part]:
    """The shares side by side. `order` fixes the colours, so that a revision keeps its own on a page."""
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(dict.fromkeys([*order, *shares]))}
    parts, start = [], 0
    for revision, weight in shares.items():
        parts.append(Part(revision, weight, start, colours[revision]))
        start += weight
    return parts


def walk(position: RolloutPosition, *, now: datetime) -> list[StepView]:
    views = []
    is_over = position.state not in (RolloutState.PREPARING, RolloutState.STEPPING, RolloutState.PAUSED)
    for index, step in enumerate(position.steps):
        if index == position.index and not is_over:
            left = position.seconds_left(now)
            done = 100 * (1 - left / step.pause_seconds) if left is not None and step.pause_seconds else 0.0
            views.append(StepView(step.weight, step.pause_seconds, "on", left, round(done, 1)))
        else:
            was_reached = index <= position.index if is_over else index < position.index
            was_reached = was_reached or position.state == RolloutState.PROMOTED
            views.append(StepView(step.weight, step.pause_seconds, "done" if was_reached else "next"))
    return views
