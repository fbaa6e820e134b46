"""Pages of the log: nothing twice, nothing left out, while rows come in and many arrive at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from console.audit.actor import Actor
from console.keys.actions import IssuedKey, issue
from console.usage.log import LogFilter, LogPage, Mark, log_page
from console.usage.models import UsageRecord

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
ALL = LogFilter()


def write(issued: IssuedKey, number: int) -> UsageRecord:
    return UsageRecord.objects.create(
        request_id=f"r{number}",
        owner=issued.key.public_id,
        key=issued.key,
        team=issued.key.team,
        model="m",
        revision="m-1",
        endpoint="chat.completions",
        transport="sse",
        outcome="finished",
        prompt_tokens=1,
        completion_tokens=1,
        created_at=NOON + timedelta(seconds=number // 3),  # three at each moment
    )


def ids(page: LogPage) -> list[str]:
    return [row.request_id for row in page.rows]


@pytest.fixture
def eleven(issued: IssuedKey) -> None:
    for number in range(11):
        write(issued, number)


def test_older_pages_show_everything_once(eleven: None, issued: IssuedKey) -> None:
    page, seen = log_page(ALL, limit=4), list[str]()
    while True:
        seen += ids(page)
        if page.older is None:
            break
        write(issued, 100 + len(seen))  # what comes in meanwhile moves nothing
        page = log_page(ALL, limit=4, before=Mark.parse(str(page.older)))
    assert seen == [f"r{number}" for number in reversed(range(11))]


def test_newer_pages_lead_back(eleven: None) -> None:
    first = log_page(ALL, limit=4)
    second = log_page(ALL, limit=4, before=first.older)
    third = log_page(ALL, limit=4, before=second.older)
    assert (first.newer, third.older) == (None, None)
    assert ids(log_page(ALL, limit=4, after=third.newer)) == ids(second)
    assert ids(log_page(ALL, limit=4, after=second.newer)) == ids(first)


def test_the_newest_page_is_full_when_few_are_newer(eleven: None) -> None:
    page = log_page(ALL, limit=4, after=Mark.of(UsageRecord.objects.get(request_id="r9")))
    assert ids(page) == ["r10", "r9", "r8", "r7"]
    assert page.newer is None


def test_rows_of_several_callers_come_in_one_order(eleven: None, issued: IssuedKey) -> None:
    other = issue(actor=Actor.person("test"), name="program too", team=issued.key.team)
    stranger = issue(actor=Actor.person("test"), name="stranger", team=issued.key.team)
    for number in range(11, 20):
        write(other if number % 2 else stranger, number)
    log_filter = LogFilter(owner="program")
    page, seen = log_page(log_filter, limit=3), list[str]()
    while page.older:
        seen += ids(page)
        page = log_page(log_filter, limit=3, before=page.older)
    seen += ids(page)
    assert seen == [f"r{number}" for number in reversed(range(20)) if number < 11 or number % 2]
    assert ids(log_page(LogFilter(owner=stranger.key.public_id), limit=2)) == ["r18", "r16"]
    assert ids(log_page(LogFilter(owner="nobody"), limit=2)) == []


@pytest.mark.parametrize(
    "text", ["", "-", "a-1", "1-", "-1", "1-2-3", "9" * 18 + "-1", "1-" + "9" * 30, "²-1"]
)
def test_a_mark_that_nobody_wrote_is_none(text: str) -> None:
    assert Mark.parse(text) is None
