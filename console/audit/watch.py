"""How far the chain has been checked, and how long ago: what the audit page says on top.

A whole check takes seconds where there are 100,000 entries, so it goes on a stretch at a time: one whenever
the state is looked at, and the rest from a thread while the server runs. What is found sounds the alarm.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import dataclass

from django.db import connection

from console.audit.alarm import ALARMS
from console.audit.checkpoint import BadCheckpoint
from console.audit.verify import Pass, Verdict, begin

logger = logging.getLogger(__name__)

STRETCH = 500  # entries: some 20 ms
PAUSE_SECONDS = 0.2  # between stretches in the background: a tenth of one core, at most
IDLE_SECONDS = 5.0
FRESH_SECONDS = 60.0  # who looks at the page gets nothing older than this checked again
REST_SECONDS = 900.0  # nobody looks: a check now and then still finds what somebody changed


@dataclass(frozen=True, slots=True)
class State:
    """The last verdict on the whole log, how old it is, and how far the check under way has come."""

    verdict: Verdict | None
    age_seconds: float
    seq: int


class Watch:
    """Checks the log over and over, slowly."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pass: Pass | None = None  # under way
        self._ended: Pass | None = None  # the last that came to its end
        self.verdict: Verdict | None = None
        self._ended_at = 0.0
        self._stopping = threading.Event()
        self._thread: threading.Thread | None = None

    def look(self) -> State:
        """The state now, after one more stretch where the verdict is old."""
        self.advance(older_than=FRESH_SECONDS)
        with self._lock:
            age = time.monotonic() - self._ended_at
            return State(self.verdict, age, self._pass.seq if self._pass else 0)

    def advance(self, *, older_than: float) -> bool:
        """Check one stretch; False when there is nothing to do."""
        with self._lock:
            if self._pass is None and self._is_young(older_than):
                return self._extend()
            try:
                self._pass = self._pass or begin()
                verdict = self._pass.advance(STRETCH)
            except BadCheckpoint as error:
                verdict = Verdict(0, 1, str(error))
            if verdict is not None:
                alarm_of(verdict)
                self.verdict, self._ended_at = verdict, time.monotonic()
                self._ended, self._pass = self._pass, None
            return True

    def _is_young(self, seconds: float) -> bool:
        return self.verdict is not None and time.monotonic() - self._ended_at < seconds

    def _extend(self) -> bool:
        """Check what was appended since the last whole check: it is as old as that check, at most."""
        if self._ended is None or self.verdict is None or not self.verdict.is_intact:
            return False
        before = self._ended.seq
        self.verdict = self._ended.advance(STRETCH) or Verdict(self._ended.seq)
        alarm_of(self.verdict)
        return self._ended.seq - before == STRETCH

    def forget(self) -> None:
        """Begin anew."""
        with self._lock:
            self._pass = self._ended = self.verdict = None

    def start(self) -> None:
        """Go on in a thread of its own; idempotent."""
        if self._thread is None:
            self._stopping.clear()
            self._thread = threading.Thread(target=self._work, name="audit-watch", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        pause = PAUSE_SECONDS
        while not self._stopping.wait(pause):
            try:
                is_busy = self.advance(older_than=REST_SECONDS)
            except Exception:  # the check goes on for as long as the server does
                logger.exception("the audit log could not be checked")
                is_busy = False
            pause = PAUSE_SECONDS if is_busy else IDLE_SECONDS
            if not is_busy:
                connection.close()
        connection.close()


def alarm_of(verdict: Verdict) -> None:
    """What was found once is not forgotten when it can no longer be seen."""
    if not verdict.is_intact:
        ALARMS.sound(verdict.reason, first_bad=verdict.first_bad)


WATCH = Watch()
