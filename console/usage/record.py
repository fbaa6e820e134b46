"""The end of a request as a ledger row: written once, whatever is replayed."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, Literal

from console.database.text import stored_text
from console.usage.models import UsageRecord


@dataclass(frozen=True, slots=True)
class Settlement:
    """The end of a request, as the pipeline knows it."""

    model: str
    revision: str
    endpoint: str
    transport: Literal["rest", "sse", "websocket", ""]  # "": unknown, the server died
    outcome: Literal["finished", "cancelled", "failed"]
    created_at: datetime  # when the request arrived
    finish_reason: str = ""
    error_code: str = ""
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    num_choices: int = 1
    queue_seconds: float = 0.0
    ttft_seconds: float | None = None
    spans: tuple[Mapping[str, Any], ...] = ()  # one after the other from arrival, as UsageRecord keeps them
    spans_end: float | None = None  # time.monotonic(); None: nobody knows any more
    end_user: str = ""

    def __post_init__(self) -> None:
        if min(self.prompt_tokens, self.cached_tokens, self.completion_tokens) < 0 or self.num_choices < 1:
            raise ValueError("counts of tokens and choices cannot be negative")
        if self.created_at.tzinfo is None:
            raise ValueError("created_at needs a time zone")

    @property
    def total_tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


def record(
    *, request_id: str, owner: str, team_id: int, key_id: int | None, settlement: Settlement
) -> UsageRecord:
    """Write the ledger row, inside the transaction that settles the request."""
    columns = {one.name: getattr(settlement, one.name) for one in fields(settlement)}
    columns["end_user"] = stored_text(settlement.end_user, length=200)
    columns["spans"] = with_settle_span(settlement.spans, since=columns.pop("spans_end"))
    columns["total_seconds"] = max((one["end"] for one in columns["spans"]), default=0.0)
    return UsageRecord.objects.create(
        request_id=request_id, owner=owner, team_id=team_id, key_id=key_id, **columns
    )


def with_settle_span(spans: Sequence[Mapping[str, Any]], *, since: float | None) -> list[Mapping[str, Any]]:
    """With the wait for the row, up to this moment: in the row all but its commit, in a trace all of it."""
    if since is None:
        return list(spans)
    start = max((one["end"] for one in spans), default=0.0)
    end = round(start + time.monotonic() - since, 5)
    return [*spans, {"name": "settle", "start": start, "end": end}]
