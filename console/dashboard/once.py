"""What is shown once (a key's secret, a new password), from the POST that made it to the page that shows it.

In this process's memory alone, for minutes, for the person who made it: in no session, cookie or address.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

KEPT_SECONDS = 120.0
MAX_KEPT = 200


class Once:
    """Given out one time."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: dict[tuple[int | None, str], tuple[float, Any]] = {}
        self._lock = threading.Lock()

    def keep(self, *, person: int | None, about: str, what: Any) -> None:
        with self._lock:
            self._forget()
            self._kept[person, about] = (self._clock() + KEPT_SECONDS, what)

    def take(self, *, person: int | None, about: str) -> Any | None:
        """None: it was shown already, or waited too long."""
        with self._lock:
            self._forget()
            return self._kept.pop((person, about), (0.0, None))[1]

    def _forget(self) -> None:
        now = self._clock()
        late = [key for key, (until, _) in self._kept.items() if until < now]
        for key in [*late, *list(self._kept)[: max(0, len(self._kept) - MAX_KEPT)]]:
            self._kept.pop(key, None)


ONCE = Once()
