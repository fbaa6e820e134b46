"""An accepted request that ended, as a span of a trace with those of its timeline: the ledger's, so that both
tell the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from console.gateway.pipeline.accepted import Accepted, Ending
from console.gateway.pipeline.spans import Spans
from console.usage.record import with_settle_span
from inference.protocol.requests import Sampling
from monitoring import semconv, tracing


def trace(accepted: Accepted, ending: Ending, *, spans: Spans, spans_end: float) -> None:
    """Called once the usage row is durable: that wait is the last span."""
    if accepted.place is None:
        return
    began, all_spans = accepted.timeline.arrived, with_settle_span(spans, since=spans_end)
    operation = accepted.endpoint.operation
    about: dict[str, Any] = {
        semconv.OPERATION: operation,
        semconv.PROVIDER: "pilothouse",
        semconv.OUTPUT_TYPE: "text",
        semconv.REQUEST_MODEL: accepted.arm.model,
        semconv.REQUEST_CHOICES: accepted.request.num_choices,
        semconv.RESPONSE_ID: accepted.request_id,
        semconv.RESPONSE_MODEL: accepted.arm.model,
        semconv.REVISION: accepted.arm.revision,
        semconv.TRANSPORT: accepted.transport,
        semconv.OUTCOME: ending.outcome,
        semconv.FINISH_REASONS: [ending.finish_reason],
        semconv.INPUT_TOKENS: ending.usage.prompt_tokens,
        semconv.OUTPUT_TOKENS: ending.usage.completion_tokens,
        semconv.CACHED_TOKENS: ending.usage.cached_tokens,
        semconv.QUEUE_SECONDS: ending.timings.queue_seconds,
        semconv.FIRST_TOKEN_SECONDS: ending.timings.first_token_seconds,
        semconv.ERROR_TYPE: ending.error_code or None,
        semconv.REQUEST_MAX_TOKENS: accepted.request.max_tokens,
        **_sampling(accepted.request.sampling),
    }
    tracing.record(
        accepted.place,
        f"{operation} {accepted.arm.model}",
        began=began,
        ended=began + all_spans[-1]["end"],
        stretches=all_spans,
        attributes={name: value for name, value in about.items() if value is not None},
        error=ending.error_code,
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
