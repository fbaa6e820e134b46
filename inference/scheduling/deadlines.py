"""Ends requests that take too long, each with the code of the deadline that it missed."""

from __future__ import annotations

from collections.abc import Iterable

from inference.protocol.events import EngineError
from inference.scheduling.phase_timeline import Phase
from inference.scheduling.request_state import Flight

MESSAGES = {
    "queue_timeout": "the request waited too long for a place in the batch",
    "first_token_timeout": "the first token took too long",
    "token_timeout": "the next token took too long",
    "request_timeout": "the request took too long in all",
}


class DeadlineWatch:
    """Looks at the requests only when the earliest deadline can have passed.

    By themselves deadlines only move away; where a nearer one comes into being (arrival, first token,
    end of a hold), `watch` is called.
    """

    def __init__(self) -> None:
        self.next_at: float | None = None

    def watch(self, flight: Flight) -> None:
        """A request has a new deadline."""
        due = next_deadline(flight)
        if due is not None and (self.next_at is None or due[0] < self.next_at):
            self.next_at = due[0]

    def expired(self, flights: Iterable[Flight], now: float) -> list[tuple[Flight, EngineError]]:
        """The requests whose deadline has passed, with the error that says which."""
        if self.next_at is None or now < self.next_at:
            return []
        self.next_at = None
        late: list[tuple[Flight, EngineError]] = []
        for flight in flights:
            due = next_deadline(flight)
            if due is not None and due[0] <= now:
                code = due[1]
                late.append((flight, EngineError(code, MESSAGES[code], is_retryable=code == "queue_timeout")))
            else:
                self.watch(flight)
        return late


def next_deadline(flight: Flight) -> tuple[float, str] | None:
    """The earliest time at which the request is late as things stand, and the code for it."""
    timeline, deadlines = flight.timeline, flight.sequence.request.deadlines
    counted_from = timeline.arrived_at + timeline.held_seconds
    limits: list[tuple[float, float | None, str]] = [
        (timeline.arrived_at, deadlines.total_seconds, "request_timeout")
    ]
    if timeline.phase is Phase.ALLOWANCE:  # the ledger's time, not the engine's
        pass
    elif timeline.first_token_at is not None:
        limits.append((timeline.quiet_since, deadlines.between_tokens_seconds, "token_timeout"))
    else:
        limits.append((counted_from, deadlines.first_token_seconds, "first_token_timeout"))
        if timeline.admitted_at is None:
            limits.append((counted_from, deadlines.queue_seconds, "queue_timeout"))
    return min(((start + limit, code) for start, limit, code in limits if limit is not None), default=None)
