"""The request log as CSV, in chunks that are read while it is sent."""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from console.database.async_read import read
from console.spreadsheet import as_sheet
from console.usage.log import LogFilter, Mark, log_page
from console.usage.models import UsageRecord

CHUNK_ROWS = 1000
COLUMNS = (
    "request_id",
    "created_at",
    "owner",
    "caller_name",
    "model",
    "revision",
    "endpoint",
    "transport",
    "outcome",
    "finish_reason",
    "error_code",
    "prompt_tokens",
    "cached_tokens",
    "completion_tokens",
    "num_choices",
    "queue_seconds",
    "ttft_seconds",
    "total_seconds",
    "end_user",
)


async def as_csv(log_filter: LogFilter) -> AsyncIterator[bytes]:
    """A line of names, then a line for each request, newest first."""
    yield as_lines([list(COLUMNS)])
    before: Mark | None = None
    while True:
        page = await read(partial(log_page, log_filter, limit=CHUNK_ROWS, before=before))
        yield as_lines([[cell(row, name) for name in COLUMNS] for row in page.rows])
        before = page.older
        if before is None:
            return


def cell(row: UsageRecord, name: str) -> Any:
    value = getattr(row, name)
    if name == "created_at":
        return value.isoformat(timespec="milliseconds")
    return round(value, 6) if isinstance(value, float) else value


def as_lines(rows: list[list[Any]]) -> bytes:
    return as_sheet(rows).encode()
