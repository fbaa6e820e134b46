"""A request that was let in, without a database."""

from __future__ import annotations

import time

from console.accounts.caller import Caller
from console.catalog.choose import Arm
from console.gateway.drain import Hold
from console.gateway.pipeline.generation import Accepted
from console.gateway.pipeline.request import Demand, Prompt
from console.gateway.pipeline.spans import Laps
from console.limits.models import Ticket
from inference.protocol.requests import Prepared, Sampling


def accepted(
    *, n: int = 1, sampling: Sampling, slice_tokens: int, endpoint: str = "chat.completions"
) -> Accepted:
    """One prompt of a token, with a slice reserved for each choice."""
    request_id = "chatcmpl-test"
    demand = Demand(endpoint, "stub", (Prompt(text="p"),), n, sampling)  # type: ignore[arg-type]
    ticket = Ticket(request_id=request_id, prompt_tokens=1, output_tokens=slice_tokens * n)
    return Accepted(
        request_id,
        Caller("key", "id", "name", 1, "salt", key_pk=1),
        demand,
        Arm("stub", "stub-1"),
        (Prepared((1,), max_output_tokens=4096, text="p"),),
        "sse",
        slice_tokens,
        created_at=1_700_000_000.5,
        laps=Laps(time.monotonic()),
        ticket=ticket,
        hold=Hold("stub-1"),
    )
