"""How many requests of each revision are in flight, and waiting until there are none."""

from __future__ import annotations

import threading
from collections import Counter


class OpenRequests:
    """Used by event loops and threads alike; only `wait_until_idle` blocks."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._changed = threading.Condition()

    def enter(self, revision: str) -> None:
        self._change(revision, +1)

    def leave(self, revision: str) -> None:
        self._change(revision, -1)

    def count(self, revision: str | None = None) -> int:
        """Of one revision; None: of all."""
        return self._counts.total() if revision is None else self._counts[revision]

    def wait_until_idle(self, revision: str | None, seconds: float | None) -> bool:
        """Block until no request of the revision (None: of any) is open; False: time is up."""
        with self._changed:
            return self._changed.wait_for(lambda: self.count(revision) == 0, seconds)

    def _change(self, revision: str, by: int) -> None:
        with self._changed:
            self._counts[revision] += by
            self._changed.notify_all()
