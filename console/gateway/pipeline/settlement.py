"""How an accepted request ends: once, with a usage row, whatever happened to its client."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Literal

from console.gateway.errors import as_api_error, unexpected
from console.gateway.pipeline.generation import Accepted, Choices
from console.gateway.pipeline.trace import trace
from console.limits.settle import settle
from console.usage.record import Settlement
from inference.protocol.events import Finish, FinishReason, Timings, Usage
from monitoring import metrics

Outcome = Literal["finished", "cancelled", "failed"]


async def conclude(accepted: Accepted, choices: Choices | None, *, error: Exception | None) -> None:
    """Stop what still runs, write the usage row, then count. Returns when the row is durable."""
    usage, timings, finishes = Usage(), Timings(), dict[int, Finish]()
    if choices is not None:
        await choices.stop()
        usage, timings, finishes = choices.usage(), choices.timings(), choices.finishes
    outcome, finish_reason, error_code = _verdict(accepted, finishes, error)
    endpoint = accepted.demand.endpoint
    spans, concluded = accepted.laps.spans(None if choices is None else choices.stay())
    await settle(
        accepted.ticket,
        record=Settlement(
            model=accepted.arm.model,
            revision=accepted.arm.revision,
            endpoint=endpoint,
            transport=accepted.transport,
            outcome=outcome,
            finish_reason=finish_reason,
            error_code=error_code,
            prompt_tokens=usage.prompt_tokens,
            cached_tokens=usage.cached_tokens,
            completion_tokens=usage.completion_tokens,
            num_choices=accepted.demand.num_choices,
            queue_seconds=timings.queue_seconds,
            ttft_seconds=timings.first_token_seconds,
            spans=spans,
            concluded=concluded,
            end_user=accepted.demand.end_user,
            created_at=datetime.fromtimestamp(accepted.created_at, UTC),
        ),
    )
    trace(
        accepted,
        spans=spans,
        outcome=outcome,
        finish_reason=finish_reason,
        error_code=error_code,
        usage=usage,
        timings=timings,
    )
    metrics.observe_request(
        model=accepted.arm.model,
        revision=accepted.arm.revision,
        endpoint=endpoint,
        transport=accepted.transport,
        outcome=outcome,
        finish_reason=finish_reason,
        error_code=error_code,
        usage=usage,
        timings=timings,
    )


def _verdict(
    accepted: Accepted, finishes: Mapping[int, Finish], error: Exception | None
) -> tuple[Outcome, str, str]:
    """Outcome, finish reason and error code for the ledger."""
    reasons = [finishes[index].reason for index in sorted(finishes)]
    if error is not None and FinishReason.CANCELLED not in reasons:
        return "failed", FinishReason.FAILED.value, (as_api_error(error) or unexpected()).code
    ended_well = len(reasons) == accepted.demand.num_choices
    if not ended_well or FinishReason.CANCELLED in reasons:
        return "cancelled", FinishReason.CANCELLED.value, ""
    return "finished", reasons[0].value, ""
