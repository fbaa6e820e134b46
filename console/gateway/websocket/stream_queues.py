"""Queues of requests by stream: one stream runs its requests in order, streams run concurrently; bounded."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

Work = TypeVar("Work")


class StreamLimitReached(Exception):
    """No room for another stream, or for another piece of work in one: "streams", "waiting" or "bytes"."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what


class StreamQueues(Generic[Work]):
    """Runs `perform` for each piece of work, in a task per busy stream."""

    def __init__(
        self,
        perform: Callable[[str | None, Work], Awaitable[None]],
        *,
        max_streams: int,
        max_waiting: int,
        max_waiting_bytes: int,
    ) -> None:
        self._perform = perform
        self._max_streams = max_streams
        self._max_waiting = max_waiting
        self._max_waiting_bytes = max_waiting_bytes  # of all streams together
        self._num_waiting_bytes = 0
        self._waiting: dict[str | None, deque[tuple[Work, int]]] = {}
        self._running: dict[str | None, asyncio.Task[None]] = {}

    @property
    def are_idle(self) -> bool:
        return not self._waiting

    def add(self, stream: str | None, work: Work, *, num_bytes: int = 0) -> None:
        """`num_bytes`: what the work takes while it waits."""
        waiting = self._waiting.get(stream)
        if waiting is not None:
            if len(waiting) >= self._max_waiting:
                raise StreamLimitReached("waiting")
            if self._num_waiting_bytes + num_bytes > self._max_waiting_bytes:
                raise StreamLimitReached("bytes")
            self._num_waiting_bytes += num_bytes
            waiting.append((work, num_bytes))
            return
        if len(self._waiting) >= self._max_streams:
            raise StreamLimitReached("streams")
        self._waiting[stream] = deque()
        self._start(stream, work)

    async def cancel(self, stream: str | None) -> bool:
        """Cancel what runs in a stream; what waits there comes next. False: nothing ran."""
        await asyncio.sleep(0)  # let it begin, or it could not say that it was cancelled
        running = self._running.get(stream)
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

    def _start(self, stream: str | None, work: Work) -> None:
        self._running[stream] = asyncio.ensure_future(self._perform(stream, work))
        self._running[stream].add_done_callback(lambda _: self._go_on(stream))

    def _go_on(self, stream: str | None) -> None:
        if self._waiting[stream]:
            work, num_bytes = self._waiting[stream].popleft()
            self._num_waiting_bytes -= num_bytes
            self._start(stream, work)
        else:
            del self._waiting[stream], self._running[stream]
