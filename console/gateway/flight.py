"""What this process has in the air, so that a drain can wait for it: settlements under way, sockets, and
whether it drains.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

Closer = Callable[[], Awaitable[None]]

_kept: set[asyncio.Task[Any]] = set()
_sockets: set[Closer] = set()
_draining = asyncio.Event()


def keep(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run `work` to its end whatever happens to whoever started it."""
    task = asyncio.create_task(work)
    _kept.add(task)
    task.add_done_callback(_kept.discard)
    return task


def opened(close: Closer) -> None:
    """A socket is open; `close` is awaited at the drain and should return once its streams have ended."""
    _sockets.add(close)


def closed(close: Closer) -> None:
    _sockets.discard(close)


def is_draining() -> bool:
    return _draining.is_set()


def begin_drain() -> None:
    """From now on nothing new is accepted."""
    _draining.set()


async def land(seconds: float) -> None:
    """Wait until sockets are closed and settlements are written, but not longer than `seconds`."""
    pending = {asyncio.ensure_future(close()) for close in tuple(_sockets)} | _kept
    if pending:
        await asyncio.wait(pending, timeout=seconds)


async def finished(steps: AsyncGenerator[object, None]) -> None:
    """Close a stream that may be running, done or never read; errors were its reader's."""
    with suppress(Exception):
        await steps.aclose()
