"""Events on their way from the engines' thread to event loops: one call into each loop for a whole step."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict

from inference.placements.event_stream import EventStream
from inference.protocol.errors import RequestRejected
from inference.protocol.events import Event

logger = logging.getLogger(__name__)

Post = tuple[EventStream, Event | RequestRejected]


class Outbox:
    """Used by one thread."""

    def __init__(self) -> None:
        self._posts: defaultdict[asyncio.AbstractEventLoop, list[Post]] = defaultdict(list)

    def add(self, stream: EventStream, event: Event | RequestRejected) -> None:
        self._posts[stream.loop].append((stream, event))

    def flush(self) -> list[asyncio.AbstractEventLoop]:
        """Hand over what was added. The loops that are closed, whose readers are gone."""
        closed = []
        for loop, posts in self._posts.items():
            try:
                loop.call_soon_threadsafe(_put_all, posts)
            except RuntimeError:
                closed.append(loop)
        self._posts.clear()
        return closed


def _put_all(posts: list[Post]) -> None:
    for stream, event in posts:
        try:
            stream.put(event)
        except Exception as flaw:  # a reader's own; the others' events are as due as its were
            logger.error("a reader failed", exc_info=flaw)
