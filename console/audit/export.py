"""The audit log as JSON lines, every column of every entry: enough to check the chain elsewhere. And as CSV,
for spreadsheets.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from datetime import UTC, datetime

from asgiref.sync import sync_to_async
from django.db.models import QuerySet

from console.audit.models import Entry
from console.spreadsheet import as_sheet

COLUMNS = ("seq", "at", "actor", "ip", "action", "target", "detail", "prev_hash", "hash", "mac")
NUM_ENTRIES_READ = 2000  # at a time: a few megabytes, and a few milliseconds of a thread


class NotAnExport(ValueError):
    """A line that no export has; `seq` is the number of the entry expected there."""

    def __init__(self, seq: int) -> None:
        super().__init__(seq)
        self.seq = seq


def as_lines(entries: Iterable[Entry]) -> Iterator[str]:
    for entry in entries:
        yield json.dumps(row(entry)) + "\n"


def from_lines(lines: Iterable[str]) -> Iterator[Entry]:
    """The entries that an export's lines describe; none of them is saved."""
    for number, line in enumerate(lines, start=1):
        try:
            columns = json.loads(line)
            columns["at"] = datetime.fromisoformat(columns["at"])
            columns.setdefault("mac", "")  # exports of before have none
            entry = Entry(**{name: columns[name] for name in COLUMNS})
        except (ValueError, KeyError, TypeError) as error:
            raise NotAnExport(number) from error
        yield entry


def as_csv(entries: Iterable[Entry]) -> Iterator[str]:
    """Rows for a spreadsheet, which must not take what somebody typed for a formula."""
    for entry in entries:
        yield as_sheet([row(entry).values()])


def row(entry: Entry) -> dict[str, str | int]:
    columns: dict[str, str | int] = {name: getattr(entry, name) for name in COLUMNS}
    return columns | {"at": entry.at.astimezone(UTC).isoformat(timespec="microseconds")}


async def streamed(
    entries: QuerySet[Entry], *, write: Callable[[Iterable[Entry]], Iterator[str]], heading: str = ""
) -> AsyncIterator[str]:
    """The entries as text, oldest first, read in pieces: no thread or connection waits for a slow reader."""
    entries = entries.order_by("seq")
    if heading:
        yield heading
    seq = 0
    while True:
        part = await sync_to_async(read)(entries.filter(seq__gt=seq)[:NUM_ENTRIES_READ])
        if not part:
            return
        yield "".join(write(part))
        seq = part[-1].seq


def read(entries: QuerySet[Entry]) -> list[Entry]:
    return list(entries)
