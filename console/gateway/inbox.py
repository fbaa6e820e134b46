"""Where the streams of one request's choices meet: deltas wait here, merged, until their reader comes."""

from __future__ import annotations

import asyncio
from collections import deque

from inference.protocol import Delta, Event, Finish


class Inbox:
    """Events of several choices, in order per choice. Never blocks its writers; bounded by the output
    itself.
    """

    def __init__(self) -> None:
        self._waiting: deque[int] = deque()  # choices with something to read, oldest first
        self._deltas: dict[int, Delta] = {}
        self._finishes: dict[int, Finish] = {}
        self._error: Exception | None = None
        self._filled = asyncio.Event()

    def add(self, index: int, event: Event) -> None:
        if isinstance(event, Delta):
            earlier = self._deltas.get(index)
            self._deltas[index] = event if earlier is None else earlier.merged(event)
        else:
            self._finishes[index] = event
        if index not in self._waiting:
            self._waiting.append(index)
        self._filled.set()

    def fail(self, error: Exception) -> None:
        """Let the reader raise `error` once everything before it has been read."""
        self._error = self._error or error
        self._filled.set()

    async def next(self, seconds: float) -> tuple[int, Event] | None:
        """The next event with its choice; None after `seconds` of silence."""
        if not self._waiting:
            if self._error is not None:
                raise self._error
            self._filled.clear()
            try:
                async with asyncio.timeout(seconds):
                    await self._filled.wait()
            except TimeoutError:
                return None
            return await self.next(seconds)
        index = self._waiting.popleft()
        delta = self._deltas.pop(index, None)
        if delta is None:
            return index, self._finishes.pop(index)
        if index in self._finishes:
            self._waiting.appendleft(index)
        return index, delta
