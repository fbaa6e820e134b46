"""Server-sent events: frames, signs of life, an error in mid-stream, and a generator that is closed whatever
happens.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from django.http import StreamingHttpResponse

from console.gateway import flight
from console.gateway.answers.answer import Answer
from console.gateway.errors import as_api_error, unexpected
from console.gateway.pipeline import Steps

logger = logging.getLogger(__name__)

KEEP_ALIVE = b": ping\n\n"
DONE = b"data: [DONE]\n\n"


def frame(value: Any) -> bytes:
    return b"data: " + json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode() + b"\n\n"


class EventStream(StreamingHttpResponse):
    """The response of a streaming request; closing it closes the stream, even one that was never read."""

    def __init__(self, steps: Steps, content: AsyncGenerator[bytes, None]) -> None:
        super().__init__(content, content_type="text/event-stream; charset=utf-8")
        self["cache-control"] = "no-cache, no-transform"
        self["x-accel-buffering"] = "no"
        self._steps = steps
        self._loop = asyncio.get_running_loop()

    def close(self) -> None:
        """Called from a thread, also when the client left before the first byte was sent."""
        super().close()
        if not self._loop.is_closed():
            asyncio.run_coroutine_threadsafe(flight.finished(self._steps), self._loop)


async def event_stream(answer: Answer, steps: Steps, *, request_id: str) -> EventStream:
    """The headers wait for the first chunk, so that what is refused at once keeps its HTTP status."""
    chunks = answer.chunks(steps)
    try:
        first = await anext(chunks)
    except BaseException:
        await chunks.aclose()
        raise
    return EventStream(steps, frames(chunks, first, request_id=request_id))


async def frames(
    chunks: AsyncGenerator[dict[str, Any] | None, None], first: dict[str, Any] | None, *, request_id: str
) -> AsyncGenerator[bytes, None]:
    """The frames of one stream. What fails in mid-stream is an error event, and no `[DONE]` follows."""
    async with aclosing(chunks):
        try:
            yield KEEP_ALIVE if first is None else frame(first)
            async for chunk in chunks:
                yield KEEP_ALIVE if chunk is None else frame(chunk)
            yield DONE
        except Exception as error:
            known = as_api_error(error)
            if known is None:
                logger.exception("stream failed: request %s", request_id)
            yield frame((known or unexpected()).body())
