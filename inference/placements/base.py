"""What placements share: requests in flight are counted, so that unload and drain can wait for them."""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from functools import partial

from inference.client import Cancel, EngineClient, OnEvent
from inference.config import PlacementConfig
from inference.placements.event_stream import EventStream
from inference.placements.open_requests import OpenRequests
from inference.protocol.errors import RequestRejected
from inference.protocol.requests import GenerateRequest

CANCEL_SECONDS = 10.0  # how long a drain waits for what it has cancelled


class Placement(EngineClient):
    """An engine client that runs revisions itself. What it adds to the interface is for its subclasses."""

    def __init__(self, config: PlacementConfig) -> None:
        super().__init__(config)
        self._open_requests = OpenRequests()
        self._is_draining = False

    @abstractmethod
    def _submit(self, request: GenerateRequest, events: EventStream) -> Callable[[], object]:
        """Start a request whose events go to `events`; returns what aborts it. Raises `RequestRejected`."""

    @abstractmethod
    def _abort_all(self) -> None:
        """Cancel every request; their streams still yield their `Finish`."""

    def stream(self, request: GenerateRequest, on_event: OnEvent) -> Cancel:
        loop = asyncio.get_running_loop()
        self._open_requests.enter(request.revision)
        events = EventStream(loop, on_event, partial(self._open_requests.leave, request.revision))
        try:
            abort = self._submit(request, events)
        except RequestRejected as rejected:
            loop.call_soon(events.put, rejected)
            return events.end

        def cancel() -> None:
            if events.end():
                abort()

        return cancel

    async def drain(self, deadline_seconds: float) -> None:
        self._is_draining = True
        if await asyncio.to_thread(self._open_requests.wait_until_idle, None, deadline_seconds):
            return
        self._abort_all()
        await asyncio.to_thread(self._open_requests.wait_until_idle, None, CANCEL_SECONDS)
