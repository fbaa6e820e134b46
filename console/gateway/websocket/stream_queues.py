"""Work in lanes: within a lane one after the other, the lanes side by side, all of it bounded."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Work = TypeVar("Work")


class TooMuch(Exception):
    """No room for another lane, or for another piece of work in one: "lanes", "waiting" or "bytes"."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class Lanes(Generic[Work]):
    """Runs `perform` for each piece of work, in a task per busy lane."""

    def __init__(
        self,
        perform: Callable[[str | None, Work], Awaitable[None]],
        *,
        max_lanes: int,
        max_waiting: int,
        max_waiting_bytes: int,
    ) -> None:
        self._perform = perform
        self._max_lanes = max_lanes
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes  # of all lanes together
        self._num_waiting_bytes = 0
        self._waiting: dict[str | None, deque[tuple[Work, int]]] = {}
        self._running: dict[str | None, asyncio.Task[None]] = {}

    @property
    def are_idle(self) -> bool:
        return not self._waiting

    def add(self, lane: str | None, work: Work, *, num_bytes: int = 0) -> None:
        """`num_bytes`: what the work takes while it waits."""
        waiting = self._waiting.get(lane)
        if waiting is not None:
            if len(waiting) >= self._max_waiting:
                raise TooMuch("waiting")
            if self._num_waiting_bytes + num_bytes > self._max_waiting_bytes:
                raise TooMuch("bytes")
            self._num_waiting_bytes += num_bytes
            waiting.append((work, num_bytes))
            return
        if len(self._waiting) >= self._max_lanes:
            raise TooMuch("lanes")
        self._waiting[lane] = deque()
        self._start(lane, work)

    async def cancel(self, lane: str | None) -> bool:
        """Cancel what runs in a lane; what waits there comes next. False: nothing ran."""
        await asyncio.sleep(0)  # let it begin, or it could not say that it was cancelled
        running = self._running.get(lane)
        return running is not None and running.cancel()

    async def finish(self) -> None:
        """Wait until everything is done."""
        while self._running:
            await asyncio.wait(tuple(self._running.values()))

    async def close(self) -> None:
        """Cancel everything and wait until it has ended."""
        for waiting in self._waiting.values():
            waiting.clear()
        self._num_waiting_bytes = 0
        for running in tuple(self._running.values()):
            running.cancel()
        await self.finish()

    def _start(self, lane: str | None, work: Work) -> None:
        self._running[lane] = asyncio.ensure_future(self._perform(lane, work))
        self._running[lane].add_done_callback(lambda _: self._go_on(lane))

    def _go_on(self, lane: str | None) -> None:
        if self._waiting[lane]:
            work, num_bytes = self._waiting[lane].popleft()
            self._num_waiting_bytes -= num_bytes
            self._start(lane, work)
        else:
            del self._waiting[lane], self._running[lane]
