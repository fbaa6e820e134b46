"""One request's events on their way from the engine's thread to a reader on an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from inference.client import OnEvent
from inference.protocol.errors import RequestRejected
from inference.protocol.events import Delta, Event


class EventStream:
    """Hands each event to `on_event`, until the last one or until it is ended. All methods run on `loop`."""

    __slots__ = ("_at_end", "_on_event", "is_over", "loop")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, on_event: OnEvent, at_end: Callable[[], None]
    ) -> None:
        self.loop = loop
        self.is_over = False
        self._on_event = on_event
        self._at_end = at_end  # called once

    def put(self, event: Event | RequestRejected) -> None:
        if not self.is_over:
            if not isinstance(event, Delta):
                self.end()
            self._on_event(event)

    def end(self) -> bool:
        """Hand on no more. False: that was so already."""
        if self.is_over:
            return False
        self.is_over = True
        self._at_end()
        return True
