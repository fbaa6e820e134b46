"""A request that was admitted: all that is decided before it is executed; and how it ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from console.accounts.caller import Caller
from console.catalog.choose import Arm
from console.endpoint_registry import EndpointInfo
from console.gateway.drain import RevisionLease
from console.gateway.pipeline.request import PipelineRequest
from console.gateway.pipeline.spans import RequestTimeline
from console.limits.models import Ticket
from inference.protocol.events import Timings, Usage
from inference.protocol.requests import TokenizedPrompt
from monitoring.tracing import Place

Transport = Literal["rest", "sse", "websocket"]
Outcome = Literal["finished", "cancelled", "failed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Accepted:
    request_id: str
    endpoint: EndpointInfo
    caller: Caller
    request: PipelineRequest
    arm: Arm
    prompts: tuple[TokenizedPrompt, ...]
    transport: Transport
    slice_tokens: int
    created_at: float  # Unix time
    timeline: RequestTimeline
    ticket: Ticket
    lease: RevisionLease
    place: Place | None = None  # the span above, where the request is traced
    can_grant: bool = True  # where the engine cannot, all tokens are reserved and asked for at once

    @property
    def choice_ids(self) -> tuple[str, ...]:
        """The engine's request ids."""
        return tuple(f"{self.request_id}-{index}" for index in range(self.request.num_choices))

    @property
    def num_prompt_tokens(self) -> int:
        return sum(len(one.token_ids) for one in self.prompts)

    def begin_answer(self) -> None:
        """The first of the answer leaves now: its headers, over HTTP. A plain one leaves when all is over."""
        if self.transport != "rest":
            self.timeline.begin_answer()


@dataclass(frozen=True, slots=True)
class Ending:
    """As the ledger, the trace and the metrics tell it."""

    outcome: Outcome
    finish_reason: str
    error_code: str
    usage: Usage
    timings: Timings
