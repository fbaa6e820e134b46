"""Server-sent events: frames, signs of life, an error in mid-stream, and a generator that is closed whatever
happens.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any

from django.http import StreamingHttpResponse

from console.gateway import drain
from console.gateway.endpoints.base import GenerationEndpoint
from console.gateway.endpoints.response import GenerationResponse, encode
from console.gateway.errors import as_api_error, unexpected
from console.gateway.pipeline.events import PipelineEvents

logger = logging.getLogger(__name__)

Send = Callable[[dict[str, Any]], Awaitable[None]]

KEEP_ALIVE = b": ping\n\n"  # a comment, in every dialect


class EventStream(StreamingHttpResponse):
    """The response of a streaming request; it is to be closed, even where it was never read."""

    def __init__(self, events: PipelineEvents, frames: AsyncGenerator[bytes, None]) -> None:
        super().__init__(frames, content_type="text/event-stream; charset=utf-8")
        self["cache-control"] = "no-cache, no-transform"
        self["x-accel-buffering"] = "no"
        self._events = events
        self._frames = frames

    async def send_body(self, send: Send) -> None:
        """Each frame as a message of its own, without Django's layers in between."""
        async with aclosing(self._frames) as frames:
            async for one in frames:
                await send({"type": "http.response.body", "body": one, "more_body": True})
        await send({"type": "http.response.body"})

    async def end(self) -> None:
        """Settles the request behind it, read or not."""
        await drain.close_stream(self._events)


async def event_stream(
    answer: GenerationResponse, events: PipelineEvents, *, endpoint: GenerationEndpoint, request_id: str
) -> EventStream:
    """The headers wait for the first chunk, so that what is refused at once keeps its HTTP status."""
    chunks = answer.chunks(events)
    try:
        first = await anext(chunks)
    except BaseException:
        await chunks.aclose()
        raise
    return EventStream(events, frames(chunks, first, endpoint=endpoint, request_id=request_id))


async def frames(
    chunks: AsyncGenerator[str | None, None],
    first: str | None,
    *,
    endpoint: GenerationEndpoint,
    request_id: str,
) -> AsyncGenerator[bytes, None]:
    """The frames of one stream. What fails in mid-stream is an error event, and no end follows."""
    frame = endpoint.stream.frame
    async with aclosing(chunks):
        try:
            yield KEEP_ALIVE if first is None else frame(first)
            async for chunk in chunks:
                yield KEEP_ALIVE if chunk is None else frame(chunk)
            yield endpoint.stream.end
        except Exception as error:
            known = as_api_error(error)
            if known is None:
                logger.exception("stream failed: request %s", request_id)
            yield frame(encode(endpoint.error_body(known or unexpected())))
