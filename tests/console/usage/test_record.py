"""The ledger row's timings: the spans as they came, and the wait for the writer at their end."""

from __future__ import annotations

import time

from console.keys.actions import IssuedKey
from console.usage.models import UsageRecord
from console.usage.record import record
from tests.console.limits.requests import ended

SPANS = ({"name": "parse", "start": 0.0, "end": 0.25}, {"name": "answer", "start": 0.2, "end": 0.2})


def write(issued: IssuedKey, **columns: object) -> UsageRecord:
    record(
        request_id="r",
        owner=issued.key.public_id,
        team_id=issued.key.team_id,
        key_id=issued.key.pk,
        settlement=ended(**columns),
    )
    return UsageRecord.objects.get()


def test_the_wait_for_the_writer_is_the_last_span(issued: IssuedKey) -> None:
    row = write(issued, spans=SPANS, spans_end=time.monotonic() - 2.0)
    assert row.spans[:2] == list(SPANS)
    settle = row.spans[2]
    assert (settle["name"], settle["start"]) == ("settle", 0.25)
    assert 2.249 < settle["end"] == row.total_seconds < 30


def test_a_row_of_a_crash_has_no_timings(issued: IssuedKey) -> None:
    row = write(issued)
    assert (row.spans, row.total_seconds, row.tokens_per_second) == ([], 0.0, None)
