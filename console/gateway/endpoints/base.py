"""The record of an endpoint: all that views, urls, the policy, key scopes, the WebSocket and the docs' tests
know of it. A new endpoint is a folder with such a record, and a line in `registry.py`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from console.endpoint_registry import EndpointInfo
from console.gateway.endpoints.generation_fields import GenerationRequest
from console.gateway.endpoints.response import GenerationResponse
from console.gateway.errors import ApiError, openai_error
from console.gateway.http.body import parse_object

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class StreamDialect:
    """The framing of a streamed response as server-sent events."""

    frame: Callable[[str], bytes]  # a chunk, which is JSON on one line
    end: bytes  # after the last chunk; never after an error


def data_frame(chunk: str) -> bytes:
    return f"data: {chunk}\n\n".encode()


OPENAI_STREAM = StreamDialect(frame=data_frame, end=b"data: [DONE]\n\n")


@dataclass(frozen=True, slots=True)
class SocketDialect:
    """The endpoint's requests and responses in frames of its WebSocket."""

    event: str  # the type of its frames: `<event>.chunk`, `<event>.done`, `<event>.cancelled`
    request_body: Callable[[Json], Json]  # what a `response.create` holds -> the request's body


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint(EndpointInfo):
    """`parse_body`: the bytes of a request and the most that they may be -> its fields; raises `ApiError`."""

    parse_body: Callable[[bytes, int], Awaitable[Json]] = parse_object
    error_body: Callable[[ApiError], Json] = openai_error


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationEndpoint(Endpoint):
    """An endpoint whose requests are answered with generated text."""

    schema: type[GenerationRequest]
    response: type[GenerationResponse]
    stream: StreamDialect = OPENAI_STREAM
    socket: SocketDialect | None = None
