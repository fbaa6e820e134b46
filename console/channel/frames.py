"""A rate limit of WebSocket frames: so many at once, and so many a second after that."""

from __future__ import annotations

LEAST_WAIT_SECONDS = 0.1  # a few frames at each turn cost less than one at each


class FrameBudget:
    """A bucket of frames. `now` is any clock of seconds that does not go back."""

    def __init__(self, *, per_second: int, at_once: int, now: float) -> None:
        self._per_second = per_second
        self._at_once = at_once
        self._left = float(at_once)
        self._counted_at = now

    def take(self, now: float) -> None:
        """Count a frame."""
        self._fill(now)
        self._left -= 1

    def seconds_until_next(self, now: float) -> float:
        """0: a frame may come now."""
        self._fill(now)
        if self._left >= 1:
            return 0.0
        return max(LEAST_WAIT_SECONDS, (1 - self._left) / self._per_second)

    def _fill(self, now: float) -> None:
        self._left = min(self._at_once, self._left + (now - self._counted_at) * self._per_second)
        self._counted_at = now
