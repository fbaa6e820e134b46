"""Open WebSockets in this process, counted by key or person."""

from __future__ import annotations

from collections import Counter


class Sockets:
    """Belongs to one event loop."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def enter(self, owner: str, *, most: int) -> bool:
        """False: the owner has as many as it may have."""
        if self._counts[owner] >= most:
            return False
        self._counts[owner] += 1
        return True

    def leave(self, owner: str) -> None:
        self._counts[owner] -= 1
        if not self._counts[owner]:
            del self._counts[owner]


OPEN = Sockets()
