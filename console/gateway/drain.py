"""What this process has in the air, so that a drain can wait for it: settlements under way, sockets, and
whether it drains.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import suppress
from itertools import count
from typing import Any
from weakref import finalize

from inference.protocol.stats import Stats

Closer = Callable[[], Awaitable[None]]

_kept: set[asyncio.Task[Any]] = set()
_sockets: set[Closer] = set()
_draining = asyncio.Event()


_holds: dict[int, str] = {}
_numbers = count()


class Hold:
    """A request's claim on a revision, from its choice to its end: so long the revision is not unloaded."""

    def __init__(self, revision: str) -> None:
        number = next(_numbers)
        _holds[number] = revision
        self.release = finalize(
            self, _holds.pop, number, None
        )  # called by the request, or when that is forgotten


def held(stats: Stats) -> Counter[str]:
    """Revision -> requests that need it: those of this process's doors, and whatever else its engine runs."""
    at_our_doors = Counter(_holds.copy().values())
    in_the_engine = Counter({one.revision: one.num_running + one.num_waiting for one in stats.revisions})
    return at_our_doors | in_the_engine


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
