"""Samples of many series on one time axis, in memory whose size is bounded."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterator, Mapping
from itertools import islice

from monitoring.panels.evaluate import Track

SeriesKey = tuple[str, tuple[tuple[str, str], ...]]  # a sample's name and its labels


class Ring:
    """The last `capacity` readings. A series is eight bytes a reading; only `max_series` are kept."""

    def __init__(self, *, capacity: int, max_series: int) -> None:
        self._capacity = capacity
        self._max_series = max_series
        self._times = array("d", [math.nan]) * capacity
        self._columns: dict[SeriesKey, array[float]] = {}
        self._seen: dict[SeriesKey, int] = {}  # the last reading that had the series
        self._count = 0
        self.num_left_out = 0  # series of the last reading that found no place

    def append(self, at: float, values: Mapping[SeriesKey, float]) -> None:
        if self._count and at <= self.newest:  # a clock that was set back; rates need an order
            return
        slot = self._count % self._capacity
        self._times[slot] = at
        for column in self._columns.values():
            column[slot] = math.nan
        self.num_left_out = 0
        for key, value in values.items():
            column_or_none = self._columns.get(key) or self._new(key)
            if column_or_none is None:
                self.num_left_out += 1
                continue
            column_or_none[slot] = value
            self._seen[key] = self._count
        self._count += 1
        if slot == 0:
            self._forget()

    def _new(self, key: SeriesKey) -> array[float] | None:
        if len(self._columns) >= self._max_series:
            self._forget()
        if len(self._columns) >= self._max_series:
            return None
        column = self._columns[key] = array("d", [math.nan]) * self._capacity
        return column

    def _forget(self) -> None:
        """Drop series whose last sample has been overwritten."""
        oldest = self._count - self._capacity
        for key in [key for key, seen in self._seen.items() if seen < oldest]:
            del self._columns[key], self._seen[key]

    @property
    def num_series(self) -> int:
        return len(self._columns)

    @property
    def newest(self) -> float:
        return self._times[(self._count - 1) % self._capacity] if self._count else math.nan

    @property
    def oldest(self) -> float:
        return self._times[max(0, self._count - self._capacity) % self._capacity]

    def tracks(self, name: str, *, since: float = -math.inf) -> Iterator[Track]:
        """The series of one name, from `since` on."""
        times = self._in_order(self._times)
        first = next((index for index, time in enumerate(times) if time >= since), len(times))
        times = times[first:]
        for key, column in list(self._columns.items()):
            if key[0] == name:
                yield _track(dict(key[1]), times, self._in_order(column)[first:])

    def _in_order(self, column: array[float]) -> array[float]:
        if self._count <= self._capacity:
            return column[: self._count]
        slot = self._count % self._capacity
        return column[slot:] + column[:slot]


def _track(labels: dict[str, str], times: array[float], values: array[float]) -> Track:
    there = [index for index, value in enumerate(values) if value == value]  # NaN: not in that reading
    if len(there) == len(values):
        return Track(labels, times, values)
    gone_at = next(islice(times, there[-1] + 1, None), math.inf) if there else math.inf
    absent_at = times[there[0] - 1] if there and there[0] else None
    return Track(labels, [times[i] for i in there], [values[i] for i in there], gone_at, absent_at)
