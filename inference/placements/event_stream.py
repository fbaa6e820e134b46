"""One request's events on their way from the engine's thread to a reader on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import chain
from typing import Protocol

from inference.client import Receive
from inference.protocol.errors import Refusal
from inference.protocol.events import Delta, Event, Finish

MAX_PENDING = 32  # deltas that wait for a slow reader before they become one


class Reader(Protocol):
    """Where the engine's thread sends a request's events: `put` is called on its `loop`."""

    loop: asyncio.AbstractEventLoop

    def put(self, event: Event | Refusal) -> None: ...


class Follower:
    """Hands each event on as it comes, until the last one or until it is let go."""

    __slots__ = ("_at_end", "_receive", "is_over", "loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, receive: Receive, at_end: Callable[[], None]) -> None:
        self.loop = loop
        self.is_over = False
        self._receive = receive
        self._at_end = at_end  # called once

    def put(self, event: Event | Refusal) -> None:
        if not self.is_over:
            if not isinstance(event, Delta):
                self.end()
            self._receive(event)

    def end(self) -> bool:
        """Receive no more. False: that was so already."""
        if self.is_over:
            return False
        self.is_over = True
        self._at_end()
        return True


class Stream:
    """Events wait here for their reader. What waits is merged, so its size is bounded by the output itself.

    Belongs to one event loop: all methods are called on it.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self.is_over = False  # its last event was put: there is nothing left to abort
        self._deltas: list[Delta] = []
        self._end: Finish | Refusal | None = None
        self._arrival: asyncio.Future[None] | None = None

    def put(self, event: Event | Refusal) -> None:
        """Something arrived. A refusal is raised to the reader."""
        if isinstance(event, Delta):
            self._deltas.append(event)
            if len(self._deltas) > MAX_PENDING:
                self._deltas = [merge(self._deltas)]
        else:
            self._end = event
            self.is_over = True
        if self._arrival is not None and not self._arrival.done():
            self._arrival.set_result(None)

    async def next(self) -> Event:
        """What arrived since the last call, as one delta; then the finish. Raises a refusal."""
        if not self._deltas and self._end is None:
            self._arrival = self.loop.create_future()
            await self._arrival
            self._arrival = None
        if self._deltas:
            deltas, self._deltas = self._deltas, []
            return deltas[0] if len(deltas) == 1 else merge(deltas)
        assert self._end is not None
        if isinstance(self._end, Refusal):
            raise self._end
        return self._end


def merge(deltas: list[Delta]) -> Delta:
    """Consecutive deltas as one."""
    return Delta(
        text="".join(delta.text for delta in deltas),
        token_ids=tuple(chain.from_iterable(delta.token_ids for delta in deltas)),
        logprobs=tuple(chain.from_iterable(delta.logprobs for delta in deltas)),
    )
