"""How a request ended, and the ledger row that it becomes: written once, whatever is replayed."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Literal

from console.storable import storable
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
    total_seconds: float = 0.0
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
    columns = asdict(settlement)
    columns["end_user"] = storable(settlement.end_user, length=200)
    return UsageRecord.objects.create(
        request_id=request_id, owner=owner, team_id=team_id, key_id=key_id, **columns
    )
