"""Refusals that come in floods: counted in memory, and one row a minute for each source and address.

A row each would let anybody serialise the database on the audit chain, and bury what matters in it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from django.db import Error, connection, transaction

from console.audit.actor import Actor
from console.audit.write import write

logger = logging.getLogger(__name__)

PERIOD_SECONDS = 60.0
MAX_SOURCES = 100  # rows a minute; whoever comes after them is counted together
MAX_REASONS = 20  # of one source
MAX_ROWS_OF_ONE = 20  # a minute of one person; what comes after them is counted
OTHERS = ("others", "")
OTHER_REASONS = "other"


@dataclass(slots=True)
class Tally:
    """What was refused to one source at one address, and why."""

    first_at: float
    counts: Counter[str] = field(default_factory=Counter)

    def add(self, reason: str, number: int) -> None:
        is_new = reason not in self.counts and len(self.counts) >= MAX_REASONS
        self.counts[OTHER_REASONS if is_new else reason] += number


class Refusals:
    """Counts from any thread; `flush` writes."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._tallies: dict[tuple[str, str], Tally] = {}
        self._rows: Counter[str] = Counter()  # of this minute, by source
        self._minute = 0
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, *, source: str, ip: str, reason: str) -> None:
        """Count one refusal. `source` is who asked, as far as that is known: `key:...`, `user:...`."""
        with self._lock:
            self._tally(source, ip).add(reason, 1)

    def has_row(self, source: str) -> bool:
        """Whether the next refusal of somebody who is known has a row of its own: up to so many a minute."""
        with self._lock:
            minute = int(self._clock() // 60)
            if minute != self._minute:
                self._minute, self._rows = minute, Counter()
            self._rows[source] += 1
            return self._rows[source] <= MAX_ROWS_OF_ONE

    def flush(self) -> int:
        """Write what was counted, in one transaction; how many rows. Nothing is lost when that fails."""
        with self._lock:
            tallies, self._tallies = self._tallies, {}
        try:
            with transaction.atomic():
                for (source, ip), tally in tallies.items():
                    self._write(source, ip, tally)
        except Error as error:
            logger.warning("refusals could not be written down; they are kept: %s", error)
            self._put_back(tallies)
            return 0
        return len(tallies)

    def start(self) -> None:
        """Flush once a minute from now on, in a thread of its own; idempotent."""
        with self._lock:
            if self._thread is None:
                self._stopped.clear()
                self._thread = threading.Thread(target=self._run, name="refusals", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Write what is left, and end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
        self._stopped.set()
        if thread is not None:
            thread.join(10.0)

    def _run(self) -> None:
        try:
            while not self._stopped.wait(PERIOD_SECONDS):
                self.flush()
            self.flush()
        finally:
            connection.close()

    def _tally(self, source: str, ip: str) -> Tally:
        known = self._tallies.get((source, ip))
        if known is not None:
            return known
        key = (source, ip) if len(self._tallies) < MAX_SOURCES else OTHERS
        return self._tallies.setdefault(key, Tally(self._clock()))

    def _put_back(self, tallies: dict[tuple[str, str], Tally]) -> None:
        with self._lock:
            for (source, ip), tally in tallies.items():
                mine = self._tally(source, ip)
                mine.first_at = min(mine.first_at, tally.first_at)
                for reason, number in tally.counts.items():
                    mine.add(reason, number)

    def _write(self, source: str, ip: str, tally: Tally) -> None:
        detail: dict[str, Any] = {
            "from": _moment(tally.first_at),
            "until": _moment(self._clock()),
            "counts": dict(tally.counts),
        }
        write(actor=Actor.anonymous(ip=ip), action="requests.refused", target=source, detail=detail)


def _moment(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")


REFUSALS = Refusals()
