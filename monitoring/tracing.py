"""Traces, when an OTLP endpoint is configured: the server span of a request, what goes on below it, and the
way of its id through the process. Without one nothing of OpenTelemetry is imported, and all of this is a look
at a variable.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from monitoring import semconv

Kind = Literal["server", "internal", "consumer"]
Attributes = Mapping[str, Any]
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]

TRACEPARENT = re.compile(rb"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(?:-.*)?")
METHODS = ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS")
ANSWER = "answer"  # a mark among the stretches, of no length
SERVER_ERROR = 500


class ExtraMissing(RuntimeError):
    """An endpoint is set, but what speaks to it is not installed."""


@dataclass(frozen=True, slots=True)
class Parent:
    """The span above, as a caller's `traceparent` tells it."""

    trace_id: int
    span_id: int
    is_sampled: bool


@dataclass(slots=True)
class Span:
    """A stretch of time that is over, or will be."""

    name: str
    kind: Kind
    trace_id: int
    span_id: int
    parent_id: int | None
    start: int  # Unix time in nanoseconds
    end: int = 0
    attributes: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    marks: Sequence[tuple[str, int]] = ()  # events without a length
    children: Sequence[tuple[str, int, int, Attributes]] = ()  # one after the other, without children


@dataclass(frozen=True, slots=True)
class Place:
    """An open span, and the clock that all spans below it share, so that none begins before its parent."""

    span: Span
    arrived: float  # time.monotonic() where the span starts
    is_sampled: bool

    @property
    def trace_id(self) -> str:
        return f"{self.span.trace_id:032x}"

    def at(self, moment: float) -> int:
        """The Unix time of a time.monotonic(), in nanoseconds."""
        return self.span.start + round((moment - self.arrived) * 1e9)


class Shipper(Protocol):
    """Takes spans without making anybody wait, and sends them when it can."""

    def add(self, span: Span) -> None: ...
    def stop(self, seconds: float) -> None: ...


_shipper: Shipper | None = None
_above: ContextVar[Parent | None] = ContextVar("trace_above", default=None)
_place: ContextVar[Place | None] = ContextVar("trace_place", default=None)


def start(*, endpoint: str, headers: str = "", version: str = "") -> None:
    """Send traces to an OTLP endpoint (http/protobuf) from now on; an empty one sends none."""
    global _shipper  # noqa: PLW0603 - one exporter for each process
    if not endpoint or _shipper is not None:
        return
    try:
        from monitoring.otlp import OtlpShipper
    except ImportError as error:
        raise ExtraMissing(
            "OTEL_EXPORTER_OTLP_ENDPOINT is set, but OpenTelemetry is not installed: "
            f'pip install "pilothouse[otel]", or unset it. ({error})'
        ) from error
    _shipper = OtlpShipper(endpoint=endpoint, headers=headers, version=version)


def stop(seconds: float) -> None:
    """Send what waits, but not for longer than that; then no more."""
    global _shipper  # noqa: PLW0603
    if _shipper is not None:
        _shipper.stop(seconds)
        _shipper = None


def here() -> Place | None:
    """The open span of whatever runs here, where it is to be recorded."""
    place = _place.get()
    return place if place is not None and place.is_sampled else None


def failed(code: str, *, status: int) -> None:
    """The open span ends with an error that its caller is told; one of ours makes the span a failed one."""
    if (place := _place.get()) is not None:
        place.span.attributes[semconv.ERROR_TYPE] = code
        place.span.error = code if status >= SERVER_ERROR else ""


def tell(attributes: Attributes) -> None:
    """Say more about the open span."""
    if (place := _place.get()) is not None:
        place.span.attributes.update(attributes)


@contextmanager
def opened(
    name: str, *, kind: Kind, attributes: Attributes | None = None, arrived: float | None = None
) -> Iterator[Place | None]:
    """A span from `arrived` (now, where not given) to the end of the block; None while nothing is traced."""
    if _shipper is None:
        yield None
        return
    now = time.monotonic()
    arrived = now if arrived is None else arrived
    above = _above.get()
    span = Span(
        name,
        kind,
        above.trace_id if above else secrets.randbits(128) or 1,
        secrets.randbits(64) or 1,
        above.span_id if above else None,
        time.time_ns() - round((now - arrived) * 1e9),
        attributes=dict(attributes or {}),
    )
    place = Place(span, arrived, above is None or above.is_sampled)
    token = _place.set(place)
    try:
        yield place
    except Exception as error:
        span.error = type(error).__name__
        span.attributes.setdefault(semconv.ERROR_TYPE, span.error)
        raise
    finally:
        _place.reset(token)
        span.end = place.at(time.monotonic())
        _ship(place, span)


def record(
    place: Place,
    name: str,
    *,
    began: float,
    ended: float,
    stretches: Sequence[Mapping[str, Any]],
    attributes: Attributes,
    error: str = "",
) -> None:
    """A span below an open one that is over already, with the stretches that it was made of: name, start and
    end in seconds since `began` (time.monotonic()), and what explains them."""
    start, last = place.at(began), place.at(ended)

    def moment(seconds: float) -> int:
        return min(last, start + round(seconds * 1e9))

    children = [
        (one["name"], moment(one["start"]), moment(one["end"]), _explaining(one))
        for one in stretches
        if one["name"] != ANSWER and one["end"] > one["start"]
    ]
    marks = [(one["name"], moment(one["start"])) for one in stretches if one["name"] == ANSWER]
    span = Span(
        name,
        "internal",
        place.span.trace_id,
        secrets.randbits(64) or 1,
        place.span.span_id,
        start,
        last,
        dict(attributes),
        error,
        marks,
        children,
    )
    _ship(place, span)


def _ship(place: Place, span: Span) -> None:
    if place.is_sampled and (shipper := _shipper) is not None:
        shipper.add(span)


def _explaining(stretch: Mapping[str, Any]) -> dict[str, Any]:
    return {
        semconv.OURS + key: value for key, value in stretch.items() if key not in ("name", "start", "end")
    }


class Traced:
    """Gives each request of the API plane its server span, and its answer the trace's id as `x-trace-id`.

    A socket has no span: each of its requests opens one, below the `traceparent` of the handshake.
    """

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if _shipper is None or scope["type"] not in ("http", "websocket") or not _is_api(scope["path"]):
            return await self._app(scope, receive, send)
        token = _above.set(parent_of(scope["headers"]))
        try:
            if scope["type"] == "http":
                await self._trace(scope, receive, send)
            else:
                await self._app(scope, receive, send)
        finally:
            _above.reset(token)

    async def _trace(self, scope: Scope, receive: Receive, send: Send) -> None:
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        about = {semconv.HTTP_METHOD: method, semconv.REQUEST_ID: scope["request_id"]}
        with opened(method, kind="server", attributes=about, arrived=scope["arrived"]) as place:
            if place is None:  # tracing stopped meanwhile
                return await self._app(scope, receive, send)
            span, stamp = place.span, (b"x-trace-id", place.trace_id.encode())

            async def stamped(message: Message) -> None:
                if message["type"] == "http.response.start":
                    span.attributes[semconv.HTTP_STATUS] = message["status"]
                    if message["status"] >= SERVER_ERROR:
                        span.error = str(message["status"])
                        span.attributes.setdefault(semconv.ERROR_TYPE, span.error)
                    message = {**message, "headers": [*message.get("headers", []), stamp]}
                await send(message)

            try:
                await self._app(scope, receive, stamped)
            finally:
                if route := span.attributes.get(semconv.HTTP_ROUTE):
                    span.name = f"{method} {route}"


def parent_of(headers: Sequence[tuple[bytes, bytes]]) -> Parent | None:
    """What a well-formed `traceparent` says; `tracestate` ends here, since callers write it freely."""
    given = [value for name, value in headers if name == b"traceparent"]
    match = TRACEPARENT.fullmatch(given[0]) if len(given) == 1 else None
    if match is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in match.groups())
    return Parent(trace_id, span_id, bool(flags & 1)) if trace_id and span_id else None


def _is_api(path: str) -> bool:
    return path == "/v1" or path.startswith("/v1/")
