"""A request that was let in, without a database."""

from __future__ import annotations

import time

from console.accounts.caller import Caller
from console.catalog.choose import Arm
from console.endpoint_registry import EndpointInfo
from console.gateway.drain import RevisionLease
from console.gateway.endpoints.chat.endpoint import CHAT
from console.gateway.pipeline.accepted import Accepted
from console.gateway.pipeline.request import PipelineRequest, Prompt
from console.gateway.pipeline.spans import RequestTimeline
from console.limits.models import Ticket
from inference.protocol.requests import Sampling, TokenizedPrompt


def accepted(*, n: int = 1, sampling: Sampling, slice_tokens: int, endpoint: EndpointInfo = CHAT) -> Accepted:
    """One prompt of a token, with a slice reserved for each choice."""
    request_id = "chatcmpl-test"
    request = PipelineRequest("stub", (Prompt(text="p"),), n, sampling)
    ticket = Ticket(request_id=request_id, prompt_tokens=1, output_tokens=slice_tokens * n)
    return Accepted(
        request_id=request_id,
        endpoint=endpoint,
        caller=Caller("key", "id", "name", 1, "salt", key_pk=1),
        request=request,
        arm=Arm("stub", "stub-1"),
        prompts=(TokenizedPrompt((1,), max_output_tokens=4096, text="p"),),
        transport="sse",
        slice_tokens=slice_tokens,
        created_at=1_700_000_000.5,
        timeline=RequestTimeline(time.monotonic()),
        ticket=ticket,
        lease=RevisionLease("stub-1"),
    )
