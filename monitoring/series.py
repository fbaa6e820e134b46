"""The engine's last hour, kept in this process: what the console's charts show without Prometheus."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import inference.client
from inference.protocol import Stats

PERIOD_SECONDS = 2.0
KEPT_SECONDS = 3600.0
NUM_STEPS = 120
NOW_SECONDS = 6.0  # "now" is the mean over this long, so that a figure does not flicker with single steps


@dataclass(frozen=True, slots=True)
class Reading:
    """One look at the engine's counters."""

    at: float  # unix time
    generated: dict[str, int]  # revision -> tokens since it was loaded

    def rate_since(self, earlier: Reading, revision: str) -> float:
        """Tokens per second of a revision; a counter that fell belongs to a revision that was loaded anew."""
        grown = self.generated.get(revision, 0) - earlier.generated.get(revision, 0)
        return max(0, grown) / (self.at - earlier.at)


@dataclass(frozen=True, slots=True)
class Series:
    """Tokens per second by revision, on one time axis."""

    times: list[int]
    rates: dict[str, list[float]]


class Recorder:
    """Reads the engine's counters every two seconds and remembers an hour of them."""

    def __init__(self, read_stats: Callable[[], Stats], clock: Callable[[], float] = time.time) -> None:
        self._read_stats = read_stats
        self._clock = clock
        self._readings: deque[Reading] = deque(maxlen=int(KEPT_SECONDS / PERIOD_SECONDS))
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Read from now on, in a thread of its own; idempotent."""
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="engine-series", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            self.read()
            time.sleep(PERIOD_SECONDS)

    def read(self) -> None:
        """Take one reading; without an engine there is none to take."""
        try:
            stats = self._read_stats()
        except RuntimeError:
            return
        generated = {one.revision: one.num_generated_tokens for one in stats.revisions}
        reading = Reading(at=self._clock(), generated=generated)
        with self._lock:
            if not self._readings or reading.at > self._readings[-1].at:
                self._readings.append(reading)

    def rate_now(self) -> float | None:
        """Tokens per second over the last seconds; None: not watched for long enough."""
        with self._lock:
            readings = list(self._readings)
        if len(readings) < 2 or self._clock() - readings[-1].at > 2 * NOW_SECONDS:
            return None
        last = readings[-1]
        since = next(one for one in readings if one.at >= last.at - NOW_SECONDS)
        if since is last:
            since = readings[-2]
        return sum(last.rate_since(since, revision) for revision in last.generated)

    def last_hour(self, *, step_seconds: float | None = None) -> Series:
        """Means over steps; the line begins where the readings do, and has finer steps while it is short."""
        with self._lock:
            readings = list(self._readings)
        if step_seconds is None:
            span = readings[-1].at - readings[0].at if readings else 0.0
            step_seconds = max(NOW_SECONDS, span / NUM_STEPS)
        picked: list[Reading] = []
        for reading in readings:
            if not picked or reading.at - picked[-1].at >= step_seconds:
                picked.append(reading)
        names = sorted({name for reading in picked for name in reading.generated})
        pairs = list(pairwise(picked))
        return Series(
            times=[int(later.at) for _, later in pairs],
            rates={
                name: [round(later.rate_since(earlier, name), 2) for earlier, later in pairs]
                for name in names
            },
        )


RECORDER = Recorder(lambda: inference.client.current().stats())
