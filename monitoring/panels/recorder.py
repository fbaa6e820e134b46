"""What this process measured in the last day, kept in its memory: what panels show without Prometheus.

An hour in steps of five seconds and a day in minutes; a restart begins anew."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise

from prometheus_client import Metric

from monitoring.collect import recorded
from monitoring.panels.evaluate import Track
from monitoring.panels.listing import SAMPLE_NAMES
from monitoring.panels.ring import Ring, SeriesKey
from monitoring.provided import PROVIDED

PERIOD_SECONDS = 5.0
HOUR_SECONDS = 3600.0
MINUTE_SECONDS = 60.0
DAY_SECONDS = 86_400.0
MAX_SERIES = 1500  # 26 MB with both rings full; one arm with traffic has about 90
REFRESH_SECONDS = 15.0
NOW_SECONDS = 10.0  # "now" is the mean over this long, so that a figure does not flicker with single steps
GENERATED = "pilothouse_engine_generated_tokens_total"


@dataclass(frozen=True, slots=True)
class Recorded:
    """A span of the past, ready to be asked. `period`: the seconds between its readings."""

    ring: Ring
    lock: threading.Lock
    period: float
    begins: float  # the first reading
    since: float

    def tracks(self, name: str) -> Iterable[Track]:
        with self.lock:
            return list(self.ring.tracks(name, since=self.since))


class Recorder:
    """Takes a reading of the panels' metrics every few seconds."""

    def __init__(
        self,
        collect: Callable[[], Iterable[Metric]],
        clock: Callable[[], float] = time.time,
        refresh: Callable[[], None] = lambda: None,
    ) -> None:
        self._collect = collect
        self._clock = clock
        self._refresh = refresh
        self._hour = Ring(capacity=int(HOUR_SECONDS / PERIOD_SECONDS), max_series=MAX_SERIES)
        self._day = Ring(capacity=int(DAY_SECONDS / MINUTE_SECONDS), max_series=MAX_SERIES)
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Read from now on, in a thread of its own; idempotent."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="panel-series", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        refreshed = -REFRESH_SECONDS
        while True:
            if time.monotonic() - refreshed >= REFRESH_SECONDS:
                refreshed = time.monotonic()
                self._refresh()
            self.read()
            time.sleep(PERIOD_SECONDS)

    def read(self) -> None:
        """Take one reading."""
        values = dict(_samples(self._collect()))
        now = self._clock()
        with self._lock:
            self._hour.append(now, values)
            if not self._day.newest > now - MINUTE_SECONDS + PERIOD_SECONDS / 2:
                self._day.append(now, values)

    def span(self, seconds: float) -> Recorded:
        """The last `seconds`, and before them what rates need; in fine steps where those are kept."""
        with self._lock:
            start = self._clock() - seconds
            is_fine = seconds <= HOUR_SECONDS or not self._day.oldest < self._hour.oldest
            ring, period = (self._hour, PERIOD_SECONDS) if is_fine else (self._day, MINUTE_SECONDS)
            return Recorded(ring, self._lock, period, ring.oldest, start - 60 * period)

    def rate_now(self) -> float | None:
        """Generated tokens per second over the last seconds; None: not watched for long enough."""
        with self._lock:
            now = self._clock()
            tracks = list(self._hour.tracks(GENERATED, since=now - 3 * NOW_SECONDS))
        rates = [rate for track in tracks if (rate := _rate_now(track, now)) is not None]
        return sum(rates) if rates else None


def _rate_now(track: Track, now: float) -> float | None:
    """A counter that fell belongs to a revision that was loaded anew."""
    if len(track.times) < 2 or now - track.times[-1] > 2 * NOW_SECONDS or track.gone_at <= now:
        return None
    first = next(index for index, at in enumerate(track.times) if at >= track.times[-1] - NOW_SECONDS)
    first = min(first, len(track.times) - 2)
    grown = sum(max(0.0, later - earlier) for earlier, later in pairwise(track.values[first:]))
    return grown / (track.times[-1] - track.times[first])


def _samples(families: Iterable[Metric]) -> Iterator[tuple[SeriesKey, float]]:
    for family in families:
        for sample in family.samples:
            if sample.name in SAMPLE_NAMES:
                yield (sample.name, tuple(sorted(sample.labels.items()))), sample.value


RECORDER = Recorder(lambda: recorded(SAMPLE_NAMES), refresh=PROVIDED.refresh)
