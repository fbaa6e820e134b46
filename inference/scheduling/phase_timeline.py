"""When things happened to one request: its spans, its gaps between tokens, what its deadlines count."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from inference.protocol.events import Span, Timings, WaitReason


class Phase(StrEnum):
    """What a request's time is spent on."""

    QUEUE = "queue"
    PREFILL = "prefill"
    DECODE = "decode"
    PREEMPTED = "preempted"
    ALLOWANCE = "allowance"


class Timeline:
    """All times are of the engine's clock; what leaves it is relative to the request's arrival."""

    __slots__ = (
        "admitted_at",
        "arrived_at",
        "batch",
        "first_token_at",
        "gaps",
        "held_seconds",
        "last_token_at",
        "num_tokens",
        "phase",
        "phase_started_at",
        "quiet_since",
        "spans",
    )

    def __init__(self, now: float) -> None:
        self.arrived_at = now
        self.admitted_at: float | None = None
        self.first_token_at: float | None = None
        self.last_token_at = now
        self.quiet_since = now  # since when a token is owed
        self.held_seconds = 0.0  # spent at the allowance
        self.gaps: list[float] = []
        self.spans: list[Span] = []
        self.phase = Phase.QUEUE
        self.phase_started_at = now
        self.num_tokens = self.batch = 0  # in this phase: tokens, and the most sequences that ran in a step

    def enter(self, phase: Phase, now: float, attributes: dict[str, Any] | None = None) -> None:
        """The running phase ends, explained by `attributes`; another begins."""
        if self.phase is Phase.ALLOWANCE:
            self.held_seconds += now - self.phase_started_at
            self.quiet_since = now
        start, end = self.phase_started_at - self.arrived_at, now - self.arrived_at
        if self.phase is Phase.DECODE:
            attributes = {"tokens": self.num_tokens, "batch": self.batch}
        self.spans.append(Span(self.phase.value, start, end, attributes or {}))
        self.phase = phase
        self.phase_started_at = now
        self.num_tokens = self.batch = 0

    def admit(self, now: float, waited_for: WaitReason | None) -> None:
        """The sequence got its blocks, for the first time or again."""
        if self.admitted_at is None:
            self.admitted_at = now
        self.enter(Phase.PREFILL, now, {"reason": waited_for.value} if waited_for else None)

    def add_token(self, now: float, *, batch: int) -> None:
        """A token was sampled, in a step that ran `batch` sequences."""
        if self.first_token_at is None:
            self.first_token_at = now
        else:
            self.gaps.append(now - self.last_token_at)
        self.last_token_at = self.quiet_since = now
        if self.phase is not Phase.DECODE:
            self.enter(Phase.DECODE, now)
            return
        self.num_tokens += 1
        if batch > self.batch:
            self.batch = batch

    def close(self, now: float, *, num_preemptions: int, num_cached_tokens: int) -> Timings:
        """The request ends: all of it, in seconds since it arrived."""
        self.enter(self.phase, now)
        first_token_seconds = None if self.first_token_at is None else self.first_token_at - self.arrived_at
        admitted_at = now if self.admitted_at is None else self.admitted_at
        return Timings(
            queue_seconds=admitted_at - self.arrived_at,
            first_token_seconds=first_token_seconds,
            total_seconds=now - self.arrived_at,
            inter_token_seconds=tuple(self.gaps),
            num_preemptions=num_preemptions,
            spans=tuple(self._explained(span, num_cached_tokens) for span in self.spans),
            arrived_at=self.arrived_at,
        )

    def _explained(self, span: Span, num_cached_tokens: int) -> Span:
        is_first_prefill = span.name == Phase.PREFILL and span is next(
            other for other in self.spans if other.name == Phase.PREFILL
        )
        if not is_first_prefill:
            return span
        return Span(span.name, span.start, span.end, {"cached_tokens": num_cached_tokens})
