"""Cuts a connection off whose reader does not take what waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

LEAST_BYTES = 64 * 1024  # to be taken in each period, or all that waits
MOST_PERIODS = 20  # in which an answer, however large, must have been taken


def waiting_bytes(transport: Any) -> int:
    """Bytes that were written to a Twisted transport and that the kernel has not taken."""
    return len(transport.dataBuffer) - int(transport.offset) + int(transport._tempDataLen)


class StallWatch:
    """From `begin`, when the write buffer is full, to `end`, when it is empty."""

    def __init__(self, transport: Any, *, seconds: float, cut: Callable[[], None]) -> None:
        self._transport = transport
        self._seconds = seconds
        self._cut = cut
        self._timer: asyncio.TimerHandle | None = None
        self._num_waiting = 0
        self._least = 0

    def begin(self) -> None:
        if self._timer is None:
            self._least = max(LEAST_BYTES, waiting_bytes(self._transport) // MOST_PERIODS)
            self._set_timer()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self) -> None:
        self._num_waiting = waiting_bytes(self._transport)
        self._timer = asyncio.get_running_loop().call_later(self._seconds, self._look)

    def _look(self) -> None:
        self._timer = None
        if self._num_waiting - waiting_bytes(self._transport) >= self._least:
            self._set_timer()
        else:
            self._cut()
