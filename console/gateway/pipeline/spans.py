"""The request timeline: this process's spans before and after the engine's own, one after the other without
gaps, so that they sum to the whole."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from inference.protocol.events import Timings

MAX_ENGINE_SPANS = 40  # a request that was preempted more often than that has the rest as one span
DECIMALS = 5

Spans = tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class EngineStay:
    """A request's time with the engine, by time.monotonic() of this process."""

    began: float
    ended: float | None  # when the finish arrived here; None: it never did
    timings: Timings | None


class RequestTimeline:
    """The spans so far. Each ends where the next one begins."""

    def __init__(self, arrived: float) -> None:
        self.arrived = arrived  # time.monotonic()
        self._ends: list[tuple[str, float, Mapping[str, Any]]] = []
        self._answer_began: float | None = None

    def end(self, name: str) -> None:
        """End the span `name`, which began where the last one ended."""
        self._add(name, time.monotonic())

    def begin_answer(self) -> None:
        """The first byte of the answer can leave; later calls change nothing."""
        if self._answer_began is None:
            self._answer_began = time.monotonic()

    def spans(self, stay: EngineStay | None) -> tuple[Spans, float]:
        """All of it until now, and when that is. `settle` is added by `usage.record`."""
        if stay is not None:
            self._add_stay(stay)
        spans, start = [], 0.0
        for name, moment, attributes in self._ends:
            # Rounded where they meet, and not each by itself: no gap comes of it.
            end = max(start, round(moment - self.arrived, DECIMALS))
            spans.append({"name": name, "start": start, "end": end, **attributes})
            start = end
        if self._answer_began is not None:
            mark = round(self._answer_began - self.arrived, DECIMALS)
            spans.append({"name": "answer", "start": mark, "end": mark})
        return tuple(spans), self.arrived + start

    def _add(self, name: str, moment: float, attributes: Mapping[str, Any] | None = None) -> None:
        self._ends.append((name, moment, attributes or {}))

    def _add_stay(self, stay: EngineStay) -> None:
        if stay.ended is None or stay.timings is None:  # refused, or not answered for
            return self.end("engine")
        timings = stay.timings
        entered = stay.ended - timings.total_seconds
        if timings.arrived_at is not None and stay.began <= timings.arrived_at <= entered:
            entered = timings.arrived_at
        self._add("handover", entered)
        shown, rest = timings.spans[:MAX_ENGINE_SPANS], timings.spans[MAX_ENGINE_SPANS:]
        for span in shown:
            self._add(span.name, entered + span.end, span.attributes)
        if rest:
            self._add("rest", entered + rest[-1].end, {"spans": len(rest)})
        if not shown:  # an engine that does not tell
            self._add("engine", stay.ended)
        return self.end("deliver")
