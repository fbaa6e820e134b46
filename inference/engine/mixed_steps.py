"""How much prefill a step may take beside decode: as much as keeps the pauses between tokens short.

A long prompt in one step would halt every stream for as long as it computes. So in steady decode a step with
prefill is to take no longer than a few steps without; both are measured while the engine runs. When more
sequences wait for their first token than decode, they are what matters, and steps are filled.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence as Seq
from statistics import median

from inference.engine.sequence import Row

LONGEST = 2.5  # what a step with prefill may take, in steps without
SMALLEST = 256  # prompt tokens: less would waste the device's width
NUM_REMEMBERED = 15  # steps of each kind


class MixedSteps:
    """Measures steps, and says what the next may hold."""

    def __init__(self, *, max_batch_tokens: int) -> None:
        self._max_batch_tokens = max_batch_tokens
        self._decode_seconds: deque[float] = deque(maxlen=NUM_REMEMBERED)
        self._token_seconds: deque[float] = deque(maxlen=NUM_REMEMBERED)  # that a prompt token adds to a step

    def budget(self, *, num_decoding: int, num_waiting: int) -> int:
        """Prompt tokens that may join `num_decoding` rows while `num_waiting` sequences have no token yet."""
        room = self._max_batch_tokens - num_decoding
        if num_waiting >= num_decoding or not (self._decode_seconds and self._token_seconds):
            return room
        seconds = (LONGEST - 1.0) * median(self._decode_seconds)
        return min(room, max(SMALLEST, int(seconds / max(median(self._token_seconds), 1e-9))))

    def observe(self, rows: Seq[Row], seconds: float) -> None:
        """A step of these rows took so long."""
        num_prefill = sum(row.num_tokens for row in rows if row.num_tokens > 1)
        if num_prefill == 0:
            self._decode_seconds.append(seconds)
        elif num_prefill >= SMALLEST // 2:
            beside = median(self._decode_seconds) if self._decode_seconds and rows[0].num_tokens == 1 else 0.0
            self._token_seconds.append(max(0.0, seconds - beside) / num_prefill)
