"""What follows a commit: each act by itself, shut-outs before everything else.

The change stands when these run, so whoever asked for it is told so whatever becomes of them. An act that
fails is logged, counted and shown on the home page.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from django.db import connection, transaction

from monitoring.metrics import AFTER_COMMIT_FAILURES

logger = logging.getLogger(__name__)

SHOWN_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Failed:
    """An act that failed in this process, how often, and when last."""

    name: str
    count: int
    at: float  # time.time()


class Failures:
    """What failed lately, for people to see."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._failed: dict[str, Failed] = {}

    def note(self, name: str) -> None:
        with self._lock:
            known = self._failed.get(name, Failed(name, 0, 0.0))
            self._failed[name] = replace(known, count=known.count + 1, at=self._clock())

    def recent(self) -> list[Failed]:
        with self._lock:
            return [one for one in self._failed.values() if self._clock() - one.at < SHOWN_SECONDS]

    def forget(self) -> None:
        with self._lock:
            self._failed.clear()


FAILURES = Failures()


def after_commit(act: Callable[[], object], *, name: str, is_shut_out: bool = False) -> None:
    """Do something once the transaction under way is durable; at once where there is none.

    `is_shut_out`: it ends what somebody may no longer do, and goes before whatever else was asked for.
    """

    def run() -> None:
        try:
            act()
        except Exception:
            logger.exception("the change was made, but what follows it failed: %s", name)
            AFTER_COMMIT_FAILURES.labels(name).inc()
            FAILURES.note(name)

    is_waiting = connection.in_atomic_block
    transaction.on_commit(run)
    if is_shut_out and is_waiting:
        waiting = connection.run_on_commit  # in the order of their asking; Django knows no other
        waiting.insert(0, waiting.pop())
