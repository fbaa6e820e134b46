"""A panel's question answered from samples that this process recorded, by Prometheus's own arithmetic.

`rate` extrapolates to the window's edges and `histogram_quantile` interpolates in a bucket exactly as
Prometheus 2 does, so that a panel shows the same wherever its data comes from; a test compares them.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Protocol

from monitoring.panels.query import Gauge, Quantile, Query, Rate, Ratio, Selector

LOOKBACK_SECONDS = 300.0
THRESHOLD = 1.1  # gaps up to this many mean distances are bridged to the window's edge

Value = float | None
Key = tuple[str, ...]  # values of a query's labels, in its order
Lines = dict[Key, list[Value]]
TOGETHER: dict[str, Callable[[list[float]], float]] = {"sum": sum, "max": max, "min": min}


@dataclass(frozen=True, slots=True)
class Track:
    """One series' samples in order of time; a reading that did not show it left none."""

    labels: dict[str, str]
    times: Sequence[float]
    values: Sequence[float]
    gone_at: float = math.inf  # the first reading without it, after its last sample
    absent_at: float | None = None  # the last reading before its first sample, if one had been taken


class Samples(Protocol):
    def tracks(self, name: str) -> Iterable[Track]: ...


def evaluate(query: Query, samples: Samples, *, at: Sequence[float], window: float, model: str = "") -> Lines:
    """Each line's values at these times. `model` leaves only its series, where they have one."""
    match query:
        case Rate():
            rates = _gathered(query.of, query.by, samples, model, Rates(at, window), sum)
            return {key: [_times(value, query.per) for value in line] for key, line in rates.items()}
        case Gauge():
            how = TOGETHER[query.how]
            return _gathered(query.of, query.by, samples, model, lambda one: _last_values(one, at), how)
        case Quantile():
            rates = evaluate(query.buckets, samples, at=at, window=window, model=model)
            return _quantiles(query.q, rates)
        case Ratio():
            parts = evaluate(query.part, samples, at=at, window=window, model=model)
            wholes = evaluate(query.whole, samples, at=at, window=window, model=model)
            nothing: list[Value] = [None] * len(at)
            return {
                key: [_share(part, one) for part, one in zip(parts.get(key, nothing), whole, strict=True)]
                for key, whole in wholes.items()
            }


def _gathered(
    of: Selector,
    by: tuple[str, ...],
    samples: Samples,
    model: str,
    values_of: Callable[[Track], list[Value]],
    put_together: Callable[[list[float]], float],
) -> Lines:
    """Tracks with the same values of `by`, as one line each."""
    groups: dict[Key, list[list[Value]]] = {}
    for track in samples.tracks(of.name):
        if of.has_arm and model and track.labels.get("model") != model:
            continue
        if all(track.labels.get(label, "") == value for label, value in of.where):
            groups.setdefault(tuple(track.labels.get(label, "") for label in by), []).append(values_of(track))
    return {key: list(_folded(group, put_together)) for key, group in groups.items()}


def _folded(group: list[list[Value]], put_together: Callable[[list[float]], float]) -> Iterator[Value]:
    if len(group) == 1:
        yield from group[0]
        return
    for column in zip(*group, strict=True):
        present = [value for value in column if value is not None]
        yield put_together(present) if present else None


def _last_values(track: Track, at: Sequence[float]) -> list[Value]:
    """The newest sample at each time, unless it is old or the series is gone."""
    values: list[Value] = []
    for moment in at:
        index = bisect_right(track.times, moment) - 1
        is_there = index >= 0 and moment - track.times[index] < LOOKBACK_SECONDS and moment < track.gone_at
        values.append(track.values[index] if is_there else None)
    return values


@dataclass(frozen=True, slots=True)
class Window:
    """The samples that a rate is made of, and how far the window's edges lie from them."""

    first: int
    last: int
    sampled: float
    to_start: float
    to_end: float

    @staticmethod
    def ending(end: float, length: float, times: Sequence[float]) -> Window | None:
        """None: fewer than two samples tell no growth."""
        first, last = bisect_left(times, end - length), bisect_right(times, end) - 1
        if last - first < 1:
            return None
        sampled = times[last] - times[first]
        return Window(first, last, sampled, times[first] - (end - length), end - times[last])

    def grown(self, grown: float, begun: float) -> float:
        """Growth of the whole window, extrapolated; no counter was ever below zero."""
        distance = self.sampled / (self.last - self.first)
        to_start = self.to_start
        if grown > 0 and begun >= 0:
            to_start = min(to_start, self.sampled * begun / grown)
        reach = self.sampled
        reach += to_start if to_start < THRESHOLD * distance else distance / 2
        reach += self.to_end if self.to_end < THRESHOLD * distance else distance / 2
        return grown * reach / self.sampled


class Rates:
    """Prometheus's `rate` at each of these times. Series of one reading share their windows."""

    def __init__(self, at: Sequence[float], window: float) -> None:
        self._at = at
        self._length = window
        self._windows: dict[int, tuple[Sequence[float], list[Window | None]]] = {}

    def __call__(self, track: Track) -> list[Value]:
        values, times = track.values, track.times
        if track.absent_at is not None and values and values[0]:
            # A counter that was not there at the reading before has grown from nothing since.
            values, times = [0.0, *values], [track.absent_at, *times]
        windows = self._windows_of(times)
        if not values or values[0] == values[-1] == max(values):  # the bulk of a histogram's buckets
            return [None if one is None else 0.0 for one in windows]
        # A counter that fell began anew: what it had before is added.
        resets = [before if now < before else 0.0 for before, now in pairwise(values)]
        risen = [value + lost for value, lost in zip(values, accumulate(resets, initial=0.0), strict=True)]
        return [
            None
            if one is None
            else one.grown(risen[one.last] - risen[one.first], values[one.first]) / self._length
            for one in windows
        ]

    def _windows_of(self, times: Sequence[float]) -> list[Window | None]:
        kept = self._windows.get(id(times))
        if kept is None:
            found = [Window.ending(end, self._length, times) for end in self._at]
            kept = self._windows[id(times)] = (times, found)  # holds `times`, so that its id stays its own
        return kept[1]


def _quantiles(q: float, rates: Lines) -> Lines:
    """`rates` has the bucket's bound as the first of its labels."""
    groups: dict[Key, list[tuple[float, list[Value]]]] = {}
    for (bound, *rest), line in rates.items():
        groups.setdefault(tuple(rest), []).append((float(bound), line))
    lines: Lines = {}
    for key, buckets in groups.items():
        buckets.sort(key=lambda one: one[0])
        bounds = [bound for bound, _ in buckets]
        columns = zip(*(line for _, line in buckets), strict=True)
        lines[key] = [quantile(q, bounds, column) for column in columns]
    return lines


def quantile(q: float, bounds: Sequence[float], counts: Sequence[Value]) -> Value:
    """Prometheus's `histogram_quantile` of cumulative counts; None where nothing was observed."""
    present = [(bound, count) for bound, count in zip(bounds, counts, strict=True) if count is not None]
    if len(present) < 2 or not math.isinf(present[-1][0]):
        return None
    uppers = [bound for bound, _ in present]
    rising = list(accumulate((count for _, count in present), max))
    if rising[-1] == 0:
        return None
    rank = q * rising[-1]
    index = bisect_left(rising, rank, hi=len(rising) - 1)
    if index == len(rising) - 1:
        return uppers[-2]
    below, start = (rising[index - 1], uppers[index - 1]) if index else (0.0, 0.0)
    inside = rising[index] - below
    return start + (uppers[index] - start) * (rank - below) / inside if inside else start


def _times(value: Value, factor: float) -> Value:
    return None if value is None else value * factor


def _share(part: Value, whole: Value) -> Value:
    return None if not whole else (part or 0.0) / whole
