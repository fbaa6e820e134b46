"""What is in flight in this process: the gateway enters each request that it lets in, and operators look on.

Nothing is counted here while tokens come: who looks asks for the progress, so a step costs nothing more."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum

from inference.protocol.stats import Stats


class State(StrEnum):
    """What an accepted request does now."""

    QUEUED = "queued"
    PREFILL = "prefill"
    DECODE = "decode"
    PREEMPTED = "preempted"
    ENDING = "ending"  # the engine is done; its client reads, or its usage is being written


@dataclass(frozen=True, slots=True)
class Progress:
    """How far the choices of a request are, together."""

    output_tokens: int
    num_ended: int


@dataclass(slots=True, eq=False)
class InFlight:
    """An accepted request that has not been settled yet."""

    request_id: str
    choice_ids: tuple[str, ...]  # the engine's request ids
    owner: str  # the key's public id, or "user:<pk>"
    owner_name: str
    model: str
    revision: str
    transport: str
    prompt_tokens: int
    arrived: float  # time.monotonic()
    progress: Callable[[], Progress] = field(repr=False)
    abort: Callable[[], None] = field(repr=False)
    is_cancelled: bool = False  # by an operator

    def cancel(self) -> None:
        """End it: its client gets the error of a cancelled request. May be called from any thread."""
        self.is_cancelled = True
        self.abort()


@dataclass(frozen=True, slots=True)
class Sight:
    """A request as it is at one moment."""

    request: InFlight
    state: State
    output_tokens: int
    age_seconds: float


class Board:
    """Who is in flight. Entered and left on the event loop, read in any thread."""

    def __init__(self) -> None:
        self._entries: dict[str, InFlight] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def enter(self, request: InFlight) -> InFlight:
        self._entries[request.request_id] = request
        return request

    def leave(self, request: InFlight) -> None:
        self._entries.pop(request.request_id, None)

    def find(self, request_id: str) -> InFlight | None:
        return self._entries.get(request_id)

    def oldest(self, limit: int) -> list[InFlight]:
        """In order of arrival."""
        return list(self._entries.values())[:limit]


def sights(requests: list[InFlight], stats: Stats | None, *, now: float | None = None) -> Iterator[Sight]:
    """What each request does, by the engine's snapshot of its batch and what has come out so far."""
    now = time.monotonic() if now is None else now
    running = {choice_id for one in stats.revisions for choice_id in one.running} if stats else set()
    for request in requests:
        progress = request.progress()
        is_running = not running.isdisjoint(request.choice_ids)
        state = state_of(progress, num_choices=len(request.choice_ids), is_running=is_running)
        yield Sight(request, state, progress.output_tokens, max(0.0, now - request.arrived))


def state_of(progress: Progress, *, num_choices: int, is_running: bool) -> State:
    if progress.num_ended == num_choices:
        return State.ENDING
    if is_running:
        return State.DECODE if progress.output_tokens else State.PREFILL
    return State.PREEMPTED if progress.output_tokens else State.QUEUED


BOARD = Board()
