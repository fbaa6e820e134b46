"""One queue for the events of all choices of a request; the deltas of a choice are merged while they wait."""

from __future__ import annotations

import asyncio
from collections import deque

from console.gateway.pipeline.events import ChoiceEvent
from inference.protocol.events import Delta, Event, Finish


class EventQueue:
    """Events of several choices, in order per choice. Never blocks its writers; bounded by the output
    itself. One task reads it.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[int] = deque()  # choices with something to read, oldest first
        self._deltas: dict[int, Delta] = {}
        self._finishes: dict[int, Finish] = {}
        self._error: Exception | None = None
        self._reader: asyncio.Future[bool] | None = None  # True: something came
        self._silent_at = 0.0  # when the reader that waits is told that nothing came
        self._bell: asyncio.TimerHandle | None = None

    def add(self, index: int, event: Event) -> None:
        if isinstance(event, Delta):
            earlier = self._deltas.get(index)
            self._deltas[index] = event if earlier is None else earlier.merged(event)
        else:
            self._finishes[index] = event
        if index not in self._waiting:
            self._waiting.append(index)
        self._wake(something=True)

    def fail(self, error: Exception) -> None:
        """Let the reader raise `error` once everything before it has been read."""
        self._error = self._error or error
        self._wake(something=True)

    async def next(self, seconds: float) -> ChoiceEvent | None:
        """The next event with its choice; None after `seconds` of silence."""
        while not self._waiting:
            if self._error is not None:
                raise self._error
            self._reader = self._loop.create_future()
            self._ring_after(seconds)
            if not await self._reader:
                return None
        index = self._waiting.popleft()
        delta = self._deltas.pop(index, None)
        if delta is None:
            return ChoiceEvent(index, self._finishes.pop(index))
        if index in self._finishes:
            self._waiting.appendleft(index)
        return ChoiceEvent(index, delta)

    def close(self) -> None:
        """Nobody reads any more."""
        if self._bell is not None:
            self._bell.cancel()
            self._bell = None

    def _wake(self, *, something: bool) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(something)

    def _ring_after(self, seconds: float) -> None:
        """A token comes every few milliseconds: one timer is moved on when it rings, not set for each."""
        self._silent_at = self._loop.time() + seconds
        if self._bell is not None and self._bell.when() > self._silent_at:
            self.close()
        if self._bell is None:
            self._bell = self._loop.call_at(self._silent_at, self._ring)

    def _ring(self) -> None:
        if self._loop.time() < self._silent_at:
            self._bell = self._loop.call_at(self._silent_at, self._ring)
        else:
            self._bell = None
            self._wake(something=False)
