"""Sends spans over OTLP (http/protobuf) from a thread of its own. The queue is bounded, the wait short: a
receiver that is slow or gone costs spans, which are counted, and never a request.
"""

from __future__ import annotations

import logging
import secrets
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator
from urllib.parse import unquote

from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

from monitoring import semconv
from monitoring.metrics import TRACES
from monitoring.tracing import Span

logger = logging.getLogger(__name__)

MAX_WAITING = 2000  # spans with their children; the engine's own are children
BATCH = 100
LINGER_SECONDS = 1.0  # how long a span may wait for others
TIMEOUT_SECONDS = 3.0  # of one delivery, its retries included
COMPLAINT_SECONDS = 60.0  # between two lines in the log about a receiver that does not take them

KINDS = {"server": SpanKind.SERVER, "internal": SpanKind.INTERNAL, "consumer": SpanKind.CONSUMER}
SCOPE = InstrumentationScope("pilothouse")


class OtlpShipper:
    """A bounded queue and the thread that empties it."""

    def __init__(self, *, endpoint: str, headers: str, version: str) -> None:
        # It would write several lines for each delivery that fails, and the URL with them.
        logging.getLogger("opentelemetry.exporter").setLevel(logging.CRITICAL)
        self._exporter = OTLPSpanExporter(
            endpoint=f"{endpoint.rstrip('/')}/v1/traces",
            headers=read_headers(headers),
            timeout=TIMEOUT_SECONDS,
            compression=Compression.Gzip,
        )
        about = {
            semconv.SERVICE_NAME: "pilothouse",
            semconv.SERVICE_VERSION: version,
            semconv.SERVICE_INSTANCE: uuid.uuid4().hex,
        }
        # What OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES say counts more.
        self._resource = Resource.create(about).merge(OTELResourceDetector().detect())
        self._waiting: deque[Span] = deque()
        self._news = threading.Condition()
        self._is_ending = False
        self._complained_at = -COMPLAINT_SECONDS
        self._thread = threading.Thread(target=self._run, name="traces", daemon=True)
        self._thread.start()

    def add(self, span: Span) -> None:
        """Take a span along; may be called from any thread, and never waits for the receiver."""
        with self._news:
            is_taken = len(self._waiting) < MAX_WAITING and not self._is_ending
            if is_taken:
                self._waiting.append(span)
            if len(self._waiting) >= BATCH:
                self._news.notify()
        if not is_taken:
            TRACES.labels("dropped").inc(1 + len(span.children))

    def stop(self, seconds: float) -> None:
        """Send what waits, then end; what is not sent in time is dropped."""
        with self._news:
            self._is_ending = True
            self._news.notify()
        self._thread.join(seconds)
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # ends a delivery that is tried again
        with self._news:
            late = sum(1 + len(one.children) for one in self._waiting)
            self._waiting.clear()
        TRACES.labels("dropped").inc(late)

    def _run(self) -> None:
        while True:
            with self._news:
                self._news.wait_for(lambda: self._is_ending or len(self._waiting) >= BATCH, LINGER_SECONDS)
                batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                if self._is_ending and not batch:
                    return
            if batch:
                self._send(batch)

    def _send(self, batch: list[Span]) -> None:
        spans = [readable for one in batch for readable in self._readable(one)]
        try:
            is_sent = self._exporter.export(spans) is SpanExportResult.SUCCESS
        except Exception:  # whatever it is: the thread must live, and requests know nothing of it
            logger.exception("a batch of spans could not be sent")
            is_sent = False
        TRACES.labels("sent" if is_sent else "failed").inc(len(spans))
        now = time.monotonic()
        if not is_sent and now - self._complained_at >= COMPLAINT_SECONDS:
            self._complained_at = now
            logger.warning("OTEL_EXPORTER_OTLP_ENDPOINT does not take traces; requests go on without them")

    def _readable(self, span: Span) -> Iterator[ReadableSpan]:
        context = _context(span.trace_id, span.span_id)
        is_remote = span.kind != "internal"  # of ours above ours, only the inner ones
        above = (
            None if span.parent_id is None else _context(span.trace_id, span.parent_id, is_remote=is_remote)
        )
        yield ReadableSpan(
            name=span.name,
            context=context,
            parent=above,
            resource=self._resource,
            attributes=span.attributes,
            events=[Event(name, timestamp=moment) for name, moment in span.marks],
            kind=KINDS[span.kind],
            status=Status(StatusCode.ERROR, span.error) if span.error else Status(),
            start_time=span.start,
            end_time=span.end,
            instrumentation_scope=SCOPE,
        )
        for name, start, end, attributes in span.children:
            yield ReadableSpan(
                name=name,
                context=_context(span.trace_id, secrets.randbits(64) or 1),
                parent=context,
                resource=self._resource,
                attributes=attributes,
                start_time=start,
                end_time=end,
                instrumentation_scope=SCOPE,
            )


def read_headers(text: str) -> dict[str, str]:
    """`name=value,name=value`, percent-encoded, as OTEL_EXPORTER_OTLP_HEADERS has them."""
    pairs = (part.partition("=") for part in text.split(",") if "=" in part)
    return {unquote(name).strip().lower(): unquote(value).strip() for name, _, value in pairs}


def _context(trace_id: int, span_id: int, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(trace_id, span_id, is_remote, TraceFlags(TraceFlags.SAMPLED))
