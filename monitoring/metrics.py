"""Every Prometheus name of Pilothouse that counts requests, once, with the functions that observe them.

Gauges and counters of the engine itself are read at scrape time: `collect.py`. Labels never carry keys, users
or anything else that a caller can choose freely.
"""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from inference.protocol.events import Timings, Usage

REGISTRY = CollectorRegistry()

ARM = ("model", "revision")  # public model name, and the revision that served it

SHORT_SECONDS = (
    0.001,
    0.0025,
    0.005,
    0.01,
    0.025,
    0.05,
    0.075,
    0.1,
    0.15,
    0.2,
    0.3,
    0.5,
    1.0,
    2.5,
    5.0,
    10.0,
)
WAIT_SECONDS = (
    0.005,
    0.01,
    0.025,
    0.05,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
    160.0,
)
WHOLE_SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
TOKEN_COUNTS = (1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)

REQUESTS = Counter(
    "pilothouse_requests",
    "Accepted requests that ended, each counted once.",
    (*ARM, "endpoint", "transport", "outcome", "finish_reason"),
    registry=REGISTRY,
)
FAILURES = Counter(
    "pilothouse_request_failures",
    "Accepted requests that failed, by error code.",
    (*ARM, "error_code"),
    registry=REGISTRY,
)
REFUSALS = Counter(
    "pilothouse_refusals",
    "Requests refused before they were accepted, by error code.",
    ("endpoint", "error_code"),
    registry=REGISTRY,
)
RESPONSES = Counter(
    "pilothouse_http_responses",
    "HTTP responses, by route name, method and status class (2xx, 4xx, ...).",
    ("route", "method", "status_class"),
    registry=REGISTRY,
)
TRACES = Counter(
    "pilothouse_trace_spans",
    "Spans of traces: sent, failed (the receiver did not take them) or dropped (the queue was full).",
    ("outcome",),
    registry=REGISTRY,
)
ROLLOUTS = Counter(
    "pilothouse_rollouts_ended",
    "Rollouts that ended, by how: promoted, aborted or undone.",
    ("state",),
    registry=REGISTRY,
)
for _state in ("promoted", "aborted", "undone"):
    ROLLOUTS.labels(_state)  # from 0 on: a rise from nothing is none to Prometheus
AUDIT_ALARM = Gauge(
    "pilothouse_audit_alarm",
    "1 while the audit log is known not to be what was written, and nobody has cleared that.",
    registry=REGISTRY,
)
AFTER_COMMIT_FAILURES = Counter(
    "pilothouse_after_commit_failures",
    "Acts that follow a committed change, such as ending streams, and failed.",
    ("act",),
    registry=REGISTRY,
)
for _act in ("audit checkpoint", "end streams", "cancel request", "dispatch job", "delete files"):
    AFTER_COMMIT_FAILURES.labels(_act)
SOCKETS = Gauge("pilothouse_websocket_connections", "WebSocket connections that are open.", registry=REGISTRY)

FIRST_TOKEN = Histogram(
    "pilothouse_time_to_first_token_seconds",
    "From a request's arrival in the engine to its first token.",
    ARM,
    buckets=WAIT_SECONDS,
    registry=REGISTRY,
)
INTER_TOKEN = Histogram(
    "pilothouse_inter_token_seconds",
    "Every gap between two output tokens, by the engine's clock.",
    ARM,
    buckets=SHORT_SECONDS,
    registry=REGISTRY,
)
PER_TOKEN = Histogram(
    "pilothouse_request_seconds_per_token",
    "A request's mean time per output token after the first.",
    ARM,
    buckets=SHORT_SECONDS,
    registry=REGISTRY,
)
QUEUE = Histogram(
    "pilothouse_request_queue_seconds",
    "From arrival to the first step that ran a part of the request.",
    ARM,
    buckets=WAIT_SECONDS,
    registry=REGISTRY,
)
PREFILL = Histogram(
    "pilothouse_request_prefill_seconds",
    "From leaving the queue to the first token.",
    ARM,
    buckets=WAIT_SECONDS,
    registry=REGISTRY,
)
DECODE = Histogram(
    "pilothouse_request_decode_seconds",
    "From the first token to the end.",
    ARM,
    buckets=WHOLE_SECONDS,
    registry=REGISTRY,
)
TOTAL = Histogram(
    "pilothouse_request_seconds",
    "From arrival to the end.",
    ARM,
    buckets=WHOLE_SECONDS,
    registry=REGISTRY,
)
PROMPT_TOKENS = Histogram(
    "pilothouse_request_prompt_tokens",
    "Prompt tokens of a request; the sum is what was metered.",
    ARM,
    buckets=TOKEN_COUNTS,
    registry=REGISTRY,
)
OUTPUT_TOKENS = Histogram(
    "pilothouse_request_output_tokens",
    "Output tokens of a request; the sum is what was metered.",
    ARM,
    buckets=TOKEN_COUNTS,
    registry=REGISTRY,
)
CACHED_TOKENS = Counter(
    "pilothouse_cached_prompt_tokens",
    "Prompt tokens of ended requests that the prefix cache held already.",
    ARM,
    registry=REGISTRY,
)


def observe_request(
    *,
    model: str,
    revision: str,
    endpoint: str,
    transport: str,
    outcome: str,
    finish_reason: str,
    error_code: str,
    usage: Usage,
    timings: Timings,
) -> None:
    """Count an accepted request that ended. The gateway calls it once, after the request is settled."""
    REQUESTS.labels(model, revision, endpoint, transport, outcome, finish_reason).inc()
    if error_code:
        FAILURES.labels(model, revision, error_code).inc()
    PROMPT_TOKENS.labels(model, revision).observe(usage.prompt_tokens)
    OUTPUT_TOKENS.labels(model, revision).observe(usage.completion_tokens)
    CACHED_TOKENS.labels(model, revision).inc(usage.cached_tokens)
    _observe_timings(model, revision, timings)


def observe_lost(
    *,
    model: str,
    revision: str,
    endpoint: str,
    transport: str,
    prompt_tokens: int,
    completion_tokens: int,
    error_code: str,
) -> None:
    """Count a request whose server died, once the next one has settled it. How long it took nobody knows."""
    REQUESTS.labels(model, revision, endpoint, transport, "failed", "").inc()
    FAILURES.labels(model, revision, error_code).inc()
    PROMPT_TOKENS.labels(model, revision).observe(prompt_tokens)
    OUTPUT_TOKENS.labels(model, revision).observe(completion_tokens)


def _observe_timings(model: str, revision: str, timings: Timings) -> None:
    QUEUE.labels(model, revision).observe(timings.queue_seconds)
    TOTAL.labels(model, revision).observe(timings.total_seconds)
    if timings.first_token_seconds is None:
        return
    FIRST_TOKEN.labels(model, revision).observe(timings.first_token_seconds)
    PREFILL.labels(model, revision).observe(max(0.0, timings.first_token_seconds - timings.queue_seconds))
    DECODE.labels(model, revision).observe(max(0.0, timings.total_seconds - timings.first_token_seconds))
    gaps = timings.inter_token_seconds
    if gaps:
        PER_TOKEN.labels(model, revision).observe(sum(gaps) / len(gaps))
    inter_token = INTER_TOKEN.labels(model, revision)
    for gap in gaps:
        inter_token.observe(gap)


# What a request is commonly refused for, and what fails one: counted from 0 on, for the first is a rise, too.
REFUSAL_CODES = (
    "invalid_value",
    "invalid_type",
    "invalid_json",
    "missing_required_parameter",
    "unknown_parameter",
    "unsupported_parameter",
    "context_length_exceeded",
    "invalid_api_key",
    "missing_scope",
    "model_not_found",
    "request_too_large",
    "rate_limit_exceeded",
    "insufficient_quota",
    "engine_unavailable",
    "model_loading",
    "engine_overloaded",
    "queue_timeout",
    "server_shutting_down",
)
FAILURE_CODES = (
    "engine_error",
    "non_finite_logits",
    "out_of_memory",
    "request_cancelled",
    "queue_timeout",
    "first_token_timeout",
    "token_timeout",
    "request_timeout",
    "server_shutting_down",
    "server_died",
)


def begin_refusals(endpoints: Iterable[str]) -> None:
    """Count the refusals of these endpoints from 0 on."""
    for endpoint in endpoints:
        for code in REFUSAL_CODES:
            REFUSALS.labels(endpoint, code)


def begin_failures(*, model: str, revision: str) -> None:
    """Count an arm's failures from 0 on."""
    for code in FAILURE_CODES:
        FAILURES.labels(model, revision, code)


def observe_refusal(*, endpoint: str, error_code: str) -> None:
    """Count a request that was refused before it was accepted (400, 401, 404, 429, 503, ...)."""
    REFUSALS.labels(endpoint, error_code).inc()


def observe_response(*, route: str, method: str, status: int) -> None:
    """Count an HTTP response. `route` is the name of a route, never a path."""
    known = method if method in ("GET", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS") else "other"
    RESPONSES.labels(route, known, f"{status // 100}xx").inc()
