"""The drain of this process: settlements and sockets that it waits for, and revisions that requests lease."""

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

_shielded: set[asyncio.Task[Any]] = set()
_sockets: set[Closer] = set()
_draining = asyncio.Event()
_leases: dict[int, str] = {}  # number of the lease -> revision
_numbers = count()


class RevisionLease:
    """A request's claim on a revision, from its choice to its end: so long the revision is not unloaded."""

    def __init__(self, revision: str) -> None:
        number = next(_numbers)
        _leases[number] = revision
        # called by the request, or when that is forgotten
        self.release = finalize(self, _leases.pop, number, None)


def requests_by_revision(stats: Stats) -> Counter[str]:
    """Requests that need each revision: those that lease it here, and whatever else its engine runs."""
    leased = Counter(_leases.copy().values())
    in_the_engine = Counter({one.revision: one.num_running + one.num_waiting for one in stats.revisions})
    return leased | in_the_engine


def shielded_task(work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
    """Run `work` to its end, also when the task that started it is cancelled."""
    task = asyncio.create_task(work)
    _shielded.add(task)
    task.add_done_callback(_shielded.discard)
    return task


def socket_opened(close: Closer) -> None:
    """`close` is awaited at the drain and should return once the socket's streams have ended."""
    _sockets.add(close)


def socket_closed(close: Closer) -> None:
    _sockets.discard(close)


def is_draining() -> bool:
    return _draining.is_set()


def begin_drain() -> None:
    """From now on nothing new is accepted."""
    _draining.set()


async def wait_until_idle(seconds: float) -> None:
    """Wait until sockets are closed and settlements are written, but not longer than `seconds`."""
    pending = {asyncio.ensure_future(close()) for close in tuple(_sockets)} | _shielded
    if pending:
        await asyncio.wait(pending, timeout=seconds)


async def close_stream(events: AsyncGenerator[object, None]) -> None:
    """Close a stream that may be running, done or never read; errors were its reader's."""
    with suppress(Exception):
        await events.aclose()
