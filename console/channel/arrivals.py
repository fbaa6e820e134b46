"""The queue of messages that an ASGI application has not taken yet."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

MOST_MESSAGES = 8
MOST_BYTES = 64 * 1024


class Arrivals(asyncio.Queue[dict[str, Any]]):
    """An ASGI application's messages. It refuses nothing: who fills it asks `is_full` first, and `when_taken`
    is called after each one that the application takes."""

    def __init__(self) -> None:
        self.when_taken: Callable[[], None] | None = None
        self._num_bytes = 0
        super().__init__()

    @property
    def is_full(self) -> bool:
        return self.qsize() >= MOST_MESSAGES or self._num_bytes >= MOST_BYTES

    def _put(self, item: dict[str, Any]) -> None:
        self._num_bytes += size_of(item)
        super()._put(item)

    def _get(self) -> dict[str, Any]:
        item: dict[str, Any] = super()._get()
        self._num_bytes -= size_of(item)
        if self.when_taken is not None:
            asyncio.get_running_loop().call_soon(self.when_taken)
        return item


def size_of(message: dict[str, Any]) -> int:
    return sum(len(message[name] or "") for name in ("body", "bytes", "text") if name in message)
