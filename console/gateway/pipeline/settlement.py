"""Settlement: an admitted request ends once, with a usage row, whatever becomes of it or of its client."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime
from types import TracebackType
from typing import Protocol, Self

from console.gateway import drain
from console.gateway.errors import as_api_error, unexpected
from console.gateway.pipeline.accepted import Accepted, Ending, Outcome
from console.gateway.pipeline.spans import EngineStay
from console.gateway.pipeline.trace import trace
from console.limits.settle import settle
from console.usage.record import Settlement
from inference.protocol.events import Finish, FinishReason, Timings, Usage
from monitoring import metrics
from monitoring.live import BOARD, InFlight, Progress


class Execution(Protocol):
    """The work of the engine for one admitted request."""

    finishes: dict[int, Finish]  # by choice

    def progress(self) -> Progress: ...

    def abort(self) -> None:
        """Let the engine cancel what still runs; may be called from any thread."""

    async def stop(self) -> None:
        """Abort what still runs and wait, not for long, until it has said what it used."""

    def usage(self) -> Usage: ...

    def timings(self) -> Timings: ...

    def engine_stay(self) -> EngineStay: ...


class Settling:
    """`async with` around the execution of a request: when it is left, for whatever reason, what still runs
    is aborted and the request is settled, once; then its revision may be unloaded."""

    def __init__(self, accepted: Accepted) -> None:
        self._accepted = accepted
        self._execution: Execution | None = None
        self._in_flight: InFlight | None = None
        self._task: asyncio.Task[None] | None = None

    def begin(self, execution: Execution) -> InFlight:
        """It runs from now on, and operators see it."""
        self._execution = execution
        self._in_flight = BOARD.enter(_in_flight(self._accepted, execution))
        return self._in_flight

    async def settle(self, error: Exception | None = None) -> None:
        """Returns when the usage row is durable, which it will be even where this is cancelled."""
        work = finish_and_settle(self._accepted, self._execution, error=error)
        self._task = drain.shielded_task(work)
        await asyncio.shield(self._task)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, raised: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            if self._task is None:
                await self.settle(raised if isinstance(raised, Exception) else None)
        finally:
            if self._in_flight is not None:
                BOARD.leave(self._in_flight)
            self._accepted.lease.release()


async def finish_and_settle(
    accepted: Accepted, execution: Execution | None, *, error: Exception | None
) -> None:
    """Stop what still runs, write the usage row, then count. Returns when the row is durable."""
    if execution is not None:
        await execution.stop()
    ending = _ending(accepted, execution, error)
    spans, spans_end = accepted.timeline.spans(None if execution is None else execution.engine_stay())
    await settle(
        accepted.ticket,
        record=Settlement(
            model=accepted.arm.model,
            revision=accepted.arm.revision,
            endpoint=accepted.endpoint.name,
            transport=accepted.transport,
            outcome=ending.outcome,
            finish_reason=ending.finish_reason,
            error_code=ending.error_code,
            prompt_tokens=ending.usage.prompt_tokens,
            cached_tokens=ending.usage.cached_tokens,
            completion_tokens=ending.usage.completion_tokens,
            num_choices=accepted.request.num_choices,
            queue_seconds=ending.timings.queue_seconds,
            ttft_seconds=ending.timings.first_token_seconds,
            spans=spans,
            spans_end=spans_end,
            end_user=accepted.request.end_user,
            created_at=datetime.fromtimestamp(accepted.created_at, UTC),
        ),
    )
    trace(accepted, ending, spans=spans, spans_end=spans_end)
    metrics.observe_request(
        model=accepted.arm.model,
        revision=accepted.arm.revision,
        endpoint=accepted.endpoint.name,
        transport=accepted.transport,
        outcome=ending.outcome,
        finish_reason=ending.finish_reason,
        error_code=ending.error_code,
        usage=ending.usage,
        timings=ending.timings,
    )


def _ending(accepted: Accepted, execution: Execution | None, error: Exception | None) -> Ending:
    if execution is None:
        return Ending(*_outcome(accepted, {}, error), Usage(), Timings())
    return Ending(*_outcome(accepted, execution.finishes, error), execution.usage(), execution.timings())


def _outcome(
    accepted: Accepted, finishes: Mapping[int, Finish], error: Exception | None
) -> tuple[Outcome, str, str]:
    """Outcome, finish reason and error code."""
    reasons = [finishes[index].reason for index in sorted(finishes)]
    if error is not None and FinishReason.CANCELLED not in reasons:
        return "failed", FinishReason.FAILED.value, (as_api_error(error) or unexpected()).code
    ended_well = len(reasons) == accepted.request.num_choices
    if not ended_well or FinishReason.CANCELLED in reasons:
        return "cancelled", FinishReason.CANCELLED.value, ""
    return "finished", reasons[0].value, ""


def _in_flight(accepted: Accepted, execution: Execution) -> InFlight:
    return InFlight(
        request_id=accepted.request_id,
        choice_ids=accepted.choice_ids,
        owner=accepted.caller.id,
        owner_name=accepted.caller.name,
        model=accepted.arm.model,
        revision=accepted.arm.revision,
        transport=accepted.transport,
        prompt_tokens=accepted.num_prompt_tokens,
        arrived=accepted.timeline.arrived,
        progress=execution.progress,
        abort=execution.abort,
    )
