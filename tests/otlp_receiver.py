"""A receiver of OTLP traces (http/protobuf), to be healthy, slow or broken as a test wants it."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, slots=True)
class Received:
    """A span as it came over the wire."""

    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    start: float  # Unix seconds
    end: float
    attributes: dict[str, Any]
    is_failed: bool
    events: tuple[str, ...]

    @property
    def seconds(self) -> float:
        return self.end - self.start


class Receiver(ThreadingHTTPServer):
    """Keeps what it is sent; `delay` and `status` make it slow or broken."""

    daemon_threads = True

    def __init__(self, *, status: int = 200, delay: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), Take)
        self.status, self.delay = status, delay
        self.hurry = threading.Event()  # ends every delay
        self.spans: list[Received] = []
        self.resources: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.raw = b""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def traces(self) -> dict[str, list[Received]]:
        found: dict[str, list[Received]] = {}
        for span in tuple(self.spans):
            found.setdefault(span.trace_id, []).append(span)
        return found

    def trace_of(self, request_id: str) -> list[Received]:
        """All spans of the trace in which a request was answered."""
        for spans in self.traces().values():
            if any(one.attributes.get("gen_ai.response.id") == request_id for one in spans):
                return spans
        return []


class Take(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.hurry.wait(self.server.delay)
        self.server.headers.append({name.lower(): value for name, value in self.headers.items()})
        if self.server.status == 200 and self.path == "/v1/traces":
            if self.headers.get("content-encoding") == "gzip":
                body = gzip.decompress(body)
            self.server.raw += body
            self._keep(ExportTraceServiceRequest.FromString(body))
        self.send_response(self.server.status)
        self.send_header("content-type", "application/x-protobuf")
        self.send_header("content-length", "0")
        self.end_headers()

    def _keep(self, request: ExportTraceServiceRequest) -> None:
        for resource in request.resource_spans:
            self.server.resources.append(values(resource.resource.attributes))
            for scope in resource.scope_spans:
                self.server.spans.extend(map(received, scope.spans))

    def log_message(self, format: str, *arguments: Any) -> None:
        """Quiet."""


def received(span: Any) -> Received:
    return Received(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_id=span.parent_span_id.hex(),
        kind=span.kind,
        start=span.start_time_unix_nano / 1e9,
        end=span.end_time_unix_nano / 1e9,
        attributes=values(span.attributes),
        is_failed=span.status.code == 2,
        events=tuple(event.name for event in span.events),
    )


def values(attributes: Any) -> dict[str, Any]:
    return {one.key: value_of(one.value) for one in attributes}


def value_of(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return (
        [value_of(one) for one in value.array_value.values] if kind == "array_value" else getattr(value, kind)
    )


@contextmanager
def receiving(*, status: int = 200, delay: float = 0.0) -> Iterator[Receiver]:
    with Receiver(status=status, delay=delay) as receiver:
        thread = threading.Thread(target=receiver.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield receiver
        finally:
            receiver.hurry.set()
            receiver.shutdown()
            thread.join()
