"""Spans become bars that lie where the time was, and figures that sum to the whole."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from monitoring.waterfall import LEAST_PERCENT, waterfall

SPANS: list[dict[str, Any]] = [
    {"name": "parse", "start": 0.0, "end": 0.5},
    {"name": "choose", "start": 0.5, "end": 0.5},
    {"name": "queue", "start": 0.5, "end": 1.0, "reason": "batch"},
    {"name": "prefill", "start": 1.0, "end": 2.0, "cached_tokens": 16},
    {"name": "decode", "start": 2.0, "end": 4.0, "tokens": 10, "batch": 3},
    {"name": "preempted", "start": 4.0, "end": 7.0, "reason": "blocks"},
    {"name": "decode", "start": 7.0, "end": 10.0, "tokens": 5, "batch": 7},
    {"name": "answer", "start": 1.5, "end": 1.5},
]


def test_bars_lie_where_the_time_was() -> None:
    drawn = waterfall(SPANS)
    assert [(row.name, row.x, row.width) for row in drawn.rows] == [
        ("parse", 0.0, 5.0),
        ("queue", 5.0, 5.0),
        ("prefill", 10.0, 10.0),
        ("decode", 20.0, 20.0),
        ("preempted", 40.0, 30.0),
        ("decode", 70.0, 30.0),
    ]
    assert (drawn.total, drawn.answer, drawn.answer_x) == (10.0, 1.5, 15.0)


def test_figures_explain_the_whole() -> None:
    drawn = waterfall(SPANS)
    assert drawn.seconds("decode") == 5.0
    assert drawn.percent("queue", "preempted") == 35.0
    assert (drawn.sum("decode", "tokens"), drawn.largest("decode", "batch")) == (15, 7)
    assert drawn.main_reason("queue", "preempted") == "blocks"
    assert drawn.main_reason("prefill") == ""


def test_nothing_kept_is_nothing_drawn() -> None:
    drawn = waterfall([])
    assert (drawn.rows, drawn.total, drawn.answer_x, drawn.percent("queue")) == ((), 0.0, None, 0.0)


@given(st.lists(st.floats(0, 1e4), min_size=1, max_size=60))
def test_rows_sum_to_the_total_and_stay_inside(lengths: list[float]) -> None:
    spans, start = [], 0.0
    for length in lengths:
        spans.append({"name": "decode", "start": start, "end": start + length})
        start += length
    drawn = waterfall(spans)
    assert sum(row.seconds for row in drawn.rows) == pytest.approx(drawn.total)
    for row in drawn.rows:
        assert row.x >= -1e-9 and row.x + row.width <= 100 + 1e-9 and row.width >= LEAST_PERCENT
