"""An accepted request that ended, as a span with the stretches it was made of: the ledger's, so that both
tell the same."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from console.gateway.pipeline.generation import Accepted
from console.gateway.pipeline.spans import Spans
from inference.protocol.events import Timings, Usage
from inference.protocol.requests import Sampling
from monitoring import semconv, tracing

OPERATIONS = {"chat.completions": "chat", "completions": "text_completion"}


def trace(
    accepted: Accepted,
    *,
    spans: Spans,
    outcome: str,
    finish_reason: str,
    error_code: str,
    usage: Usage,
    timings: Timings,
) -> None:
    """Called once the usage row is durable: that wait is the last stretch."""
    if accepted.place is None:
        return
    began, ended = accepted.laps.arrived, time.monotonic()
    settling = max((one["end"] for one in spans), default=0.0)
    operation = OPERATIONS[accepted.demand.endpoint]
    about: dict[str, Any] = {
        semconv.OPERATION: operation,
        semconv.PROVIDER: "pilothouse",
        semconv.OUTPUT_TYPE: "text",
        semconv.REQUEST_MODEL: accepted.arm.model,
        semconv.REQUEST_CHOICES: accepted.demand.num_choices,
        semconv.RESPONSE_ID: accepted.request_id,
        semconv.RESPONSE_MODEL: accepted.arm.model,
        semconv.REVISION: accepted.arm.revision,
        semconv.TRANSPORT: accepted.transport,
        semconv.OUTCOME: outcome,
        semconv.FINISH_REASONS: [finish_reason],
        semconv.INPUT_TOKENS: usage.prompt_tokens,
        semconv.OUTPUT_TOKENS: usage.completion_tokens,
        semconv.CACHED_TOKENS: usage.cached_tokens,
        semconv.QUEUE_SECONDS: timings.queue_seconds,
        semconv.FIRST_TOKEN_SECONDS: timings.first_token_seconds,
        semconv.ERROR_TYPE: error_code or None,
        semconv.REQUEST_MAX_TOKENS: accepted.demand.max_tokens,
        **_sampling(accepted.demand.sampling),
    }
    tracing.record(
        accepted.place,
        f"{operation} {accepted.arm.model}",
        began=began,
        ended=ended,
        stretches=[*spans, {"name": "settle", "start": settling, "end": ended - began}],
        attributes={name: value for name, value in about.items() if value is not None},
        error=error_code,
    )


def _sampling(sampling: Sampling) -> Mapping[str, Any]:
    """The numbers that a request asked for; its stop strings are the caller's words, and left out."""
    return {
        semconv.REQUEST_TEMPERATURE: sampling.temperature,
        semconv.REQUEST_TOP_P: sampling.top_p,
        semconv.REQUEST_TOP_K: sampling.top_k or None,
        semconv.REQUEST_SEED: sampling.seed,
        semconv.REQUEST_FREQUENCY_PENALTY: sampling.frequency_penalty or None,
        semconv.REQUEST_PRESENCE_PENALTY: sampling.presence_penalty or None,
    }
