"""Where the time went is told without gaps, whatever the engine tells of its part."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import pytest

from console.gateway.pipeline import spans
from console.gateway.pipeline.spans import MAX_ENGINE_SPANS, EngineStay, RequestTimeline, Spans
from inference.protocol.events import Span, Timings


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(spans.time, "monotonic", lambda: now[0])
    return now


def without_gaps(spans: Spans) -> list[tuple[str, float, float]]:
    told = [(one["name"], one["start"], one["end"]) for one in spans if one["name"] != "answer"]
    assert told[0][1] == 0.0
    assert all(before[2] == after[1] for before, after in pairwise(told))
    return told


def accepted(clock: list[float]) -> RequestTimeline:
    """A request that arrived at 100 and was reserved for at 103."""
    one = RequestTimeline(100.0)
    for name in ("parse", "choose", "prepare"):
        clock[0] += 1
        one.end(name)
    return one


def timings(*ends: float, arrived_at: float | None) -> Timings:
    starts = [0.0, *ends]
    spans = tuple(Span("decode", start, end) for start, end in pairwise(starts))
    return Timings(total_seconds=ends[-1], spans=spans, arrived_at=arrived_at)


def test_the_engines_spans_lie_between_ours(clock: list[float]) -> None:
    one = accepted(clock)
    engine = Timings(
        total_seconds=6.0,
        spans=(Span("queue", 0, 2, {"reason": "blocks"}), Span("decode", 2, 6)),
        arrived_at=104.0,
    )
    one.begin_answer()
    clock[0] = 113.0
    spans, concluded = one.spans(EngineStay(103.0, 110.5, engine))
    assert without_gaps(spans) == [
        ("parse", 0, 1),
        ("choose", 1, 2),
        ("prepare", 2, 3),
        ("handover", 3, 4),
        ("queue", 4, 6),
        ("decode", 6, 10),
        ("deliver", 10, 13),
    ]
    assert concluded == 113.0
    assert spans[4]["reason"] == "blocks"
    assert spans[-1] == {"name": "answer", "start": 3, "end": 3}


@pytest.mark.parametrize("arrived_at", [None, 5.0, 1e9])
def test_an_engine_with_another_clock_is_placed_by_its_end(
    clock: list[float], arrived_at: float | None
) -> None:
    one = accepted(clock)
    clock[0] = 110.0
    spans, _ = one.spans(EngineStay(103.0, 110.0, timings(6.0, arrived_at=arrived_at)))
    assert without_gaps(spans)[3:] == [("handover", 3, 4), ("decode", 4, 10), ("deliver", 10, 10)]


def test_an_engine_that_never_answered_is_one_span(clock: list[float]) -> None:
    one = accepted(clock)
    clock[0] = 108.0
    spans, _ = one.spans(EngineStay(103.0, None, None))
    assert without_gaps(spans)[3:] == [("engine", 3, 8)]


def test_a_request_that_never_reached_the_engine_has_the_gateways_spans_alone(clock: list[float]) -> None:
    spans, concluded = accepted(clock).spans(None)
    assert [name for name, _, _ in without_gaps(spans)] == ["parse", "choose", "prepare"]
    assert concluded == 103.0


def test_many_spans_are_kept_as_few(clock: list[float]) -> None:
    one = accepted(clock)
    clock[0] = 103.0 + 1000
    ends = [float(number) for number in range(1, 1001)]
    spans, _ = one.spans(EngineStay(103.0, 1103.0, timings(*ends, arrived_at=103.0)))
    told: list[Any] = without_gaps(spans)
    assert len(told) <= MAX_ENGINE_SPANS + 8
    assert told[-2] == ("rest", 3 + MAX_ENGINE_SPANS, 1003)
    assert spans[-2]["spans"] == 1000 - MAX_ENGINE_SPANS


def test_rounding_leaves_no_gap() -> None:
    one = RequestTimeline(time.monotonic() - 1 / 3)
    for name in "abcdefgh":
        one.end(name)
    without_gaps(one.spans(None)[0])
