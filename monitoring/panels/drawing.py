"""What a chart gets: a panel's lines on one time axis, from samples of this process or from Prometheus."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from monitoring.panels.evaluate import Key, Value, evaluate
from monitoring.panels.panel import Line, Panel
from monitoring.panels.query import of_model, split
from monitoring.panels.range_query import Prometheus
from monitoring.panels.recorder import Recorder

RANGES = {"15m": 900, "1h": 3600, "6h": 21_600, "24h": 86_400}
NUM_POINTS = 120
MAX_LINES = 8  # more colours than these nobody tells apart
SCRAPE_SECONDS = 15  # docker/prometheus/prometheus.yml; a rate needs four scrapes
PRECISION = 6  # significant digits


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which part of the past, of which model, and whether by revision."""

    range: str = "1h"
    model: str = ""
    by_revision: bool = False

    @property
    def seconds(self) -> int:
        return RANGES[self.range]

    def lines(self, panel: Panel) -> tuple[Line, ...]:
        if not (self.by_revision and panel.has_arm):
            return panel.lines
        return tuple(replace(line, query=split(line.query, "revision")) for line in panel.lines)


@dataclass(frozen=True, slots=True)
class DrawnLine:
    name: str
    values: list[Value]


@dataclass(frozen=True, slots=True)
class Drawn:
    """A panel's lines. `num_left_out`: lower ones that there was no colour for."""

    panel: Panel
    times: list[int]
    lines: list[DrawnLine]
    num_left_out: int = 0
    begins: float | None = None  # the first measurement there is; none: older than the range


def draw_own(panel: Panel, wanted: Wanted, recorder: Recorder, *, now: float) -> Drawn:
    """From what this process recorded. While that is little, the steps are fine."""
    recorded = recorder.span(wanted.seconds)
    begins = max(now - wanted.seconds, recorded.begins)
    if math.isnan(begins):
        return Drawn(panel, [], [])
    step = recorded.period * max(1, math.ceil((now - begins) / NUM_POINTS / recorded.period))
    times = axis(start=begins, end=now, step=step)
    window = max(step + recorded.period, 4 * recorded.period)
    found: dict[str, list[Value]] = {}
    for line in wanted.lines(panel):
        answers = evaluate(line.query, recorded, at=times, window=window, model=wanted.model)
        found |= {name_of(panel, line, key): values for key, values in answers.items()}
    return replace(drawn(panel, times, found), begins=begins if begins > now - wanted.seconds else None)


async def draw_prometheus(panel: Panel, wanted: Wanted, prometheus: Prometheus, *, now: float) -> Drawn:
    """From Prometheus. May raise `Unreachable`."""
    step = max(5, wanted.seconds // NUM_POINTS)
    times = axis(start=now - wanted.seconds, end=now, step=step)
    window = f"{max(step + SCRAPE_SECONDS, 4 * SCRAPE_SECONDS)}s"
    found: dict[str, list[Value]] = {}
    for line in wanted.lines(panel):
        expression = line.query.promql(window=window, model=of_model(wanted.model))
        for labels, points in await prometheus.range(expression, start=times[0], end=times[-1], step=step):
            key = tuple(labels.get(label, "") for label in line.query.by)
            found[name_of(panel, line, key)] = on_axis(points, times)
    return drawn(panel, times, found)


def axis(*, start: float, end: float, step: float) -> list[int]:
    """Multiples of the step, so that a chart that refreshes does not jitter."""
    first, last = math.ceil(start / step), math.floor(end / step)
    return [int(index * step) for index in range(first, last + 1)]


def on_axis(points: Mapping[int, float], times: Iterable[int]) -> list[Value]:
    return [points.get(time) for time in times]


def name_of(panel: Panel, line: Line, key: Key) -> str:
    """Like Grafana's legend: the line's label, then the values of its labels."""
    return " ".join(part for part in (str(line.label), *key) if part) or str(panel.title)


def drawn(panel: Panel, times: list[int], found: dict[str, list[Value]]) -> Drawn:
    """The highest lines, in the order of their names, without those that say nothing.

    Codes of errors that never happened are counted as 0 and not shown.
    """
    peaks = {name: peak for name, values in found.items() if (peak := peak_of(values)) is not None}
    if any("error_code" in line.query.by for line in panel.lines):
        peaks = {name: peak for name, peak in peaks.items() if peak}
    highest = sorted(peaks, key=lambda name: (-peaks[name], name))[:MAX_LINES]
    lines = [DrawnLine(name, [rounded(value) for value in found[name]]) for name in sorted(highest)]
    # The axis begins where a line does.
    first = min((_first(line.values) for line in lines), default=len(times))
    shown = [DrawnLine(line.name, line.values[first:]) for line in lines]
    return Drawn(panel, times[first:], shown, len(peaks) - len(lines))


def _first(values: list[Value]) -> int:
    return next(index for index, value in enumerate(values) if value is not None)


def peak_of(values: Iterable[Value]) -> Value:
    return max((value for value in values if value is not None and math.isfinite(value)), default=None)


def rounded(value: Value) -> Value:
    return float(f"{value:.{PRECISION}g}") if value is not None and math.isfinite(value) else None
