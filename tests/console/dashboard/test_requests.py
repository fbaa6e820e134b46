"""The request log, one request's page and the export: what they show, to whom, and how fast."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import urlencode

import pytest
from django.test import AsyncClient, Client
from django.utils import timezone

from console.accounts.models import User
from console.accounts.roles import Role
from console.audit.actor import Actor
from console.keys.actions import IssuedKey
from console.usage.models import UsageRecord
from tests.console.dashboard.conftest import BACKEND, SignedIn
from tests.counting import MOST_OF_A_PAGE, costs_of_pages

HOSTILE = "<script>alert(1)</script>"
SPANS = [
    {"name": "parse", "start": 0.0, "end": 0.004},
    {"name": "queue", "start": 0.004, "end": 1.204, "reason": "blocks"},
    {"name": "prefill", "start": 1.204, "end": 1.5, "cached_tokens": 4},
    {"name": "decode", "start": 1.5, "end": 3.998, "tokens": 19, "batch": 212},
    {"name": "settle", "start": 3.998, "end": 4.0},
    {"name": "answer", "start": 1.0, "end": 1.0},
]

Ended = Callable[..., UsageRecord]


@pytest.fixture
def ended(issued: IssuedKey) -> Ended:
    """Writes the row of a request that has ended."""
    numbers = iter(range(1, 10_000))

    def write(**columns: Any) -> UsageRecord:
        number = next(numbers)
        certificate_status = {
            "request_id": f"chatcmpl-{number:04}",
            "owner": issued.key.public_id,
            "key": issued.key,
            "team": issued.key.team,
            "model": "m",
            "revision": "m-1",
            "endpoint": "chat.completions",
            "transport": "sse",
            "outcome": "finished",
            "finish_reason": "stop",
            "prompt_tokens": 10,
            "cached_tokens": 4,
            "completion_tokens": 20,
            "ttft_seconds": 1.5,
            "total_seconds": 4.0,
            "spans": SPANS,
            "created_at": timezone.now() - timedelta(seconds=number),
        }
        return UsageRecord.objects.create(**(certificate_status | columns))

    return write


def text_of(client: Client, path: str, **query: str) -> str:
    answer = client.get(path, query)
    assert answer.status_code == 200, answer
    return answer.content.decode()


def test_an_empty_log_names_the_next_step(signed_in: SignedIn) -> None:
    assert "Issue a key and call the API" in text_of(signed_in(Role.VIEWER), "/requests/")


def test_a_row_tells_who_what_and_how_fast(signed_in: SignedIn, ended: Ended) -> None:
    ended()
    page = text_of(signed_in(Role.VIEWER), "/requests/")
    for text in ("program", "m-1", "stop", "1.50 s", "4.00 s", "5.0", "/requests/chatcmpl-0001/"):
        assert text in page, text


@pytest.mark.parametrize(
    ("query", "number"),
    [
        ({"model": "other"}, 2),
        ({"outcome": "failed"}, 3),
        ({"error": "queue_timeout"}, 3),
        ({"transport": "rest"}, 4),
        ({"endpoint": "completions"}, 5),
        ({"min_seconds": "9"}, 6),
        ({"key": "the-viewer"}, 7),
        ({"until": "2026-01-01T00:00"}, 8),
    ],
)
def test_each_filter_leaves_what_it_asks_for(
    signed_in: SignedIn, ended: Ended, query: dict[str, str], number: int
) -> None:
    client = signed_in(Role.VIEWER)
    person = User.objects.get(username="the-viewer")
    rows = [
        ended(),
        ended(model="other"),
        ended(outcome="failed", finish_reason="failed", error_code="queue_timeout"),
        ended(transport="rest"),
        ended(endpoint="completions"),
        ended(total_seconds=10.0),
        ended(owner=f"user:{person.pk}", key=None),
        ended(created_at=timezone.now() - timedelta(days=900)),
    ]
    page = text_of(client, "/requests/", **query)
    shown = [row.request_id for row in rows if f"/requests/{row.request_id}/" in page]
    assert shown == [f"chatcmpl-{number:04}"]


def test_what_is_not_valid_is_said(signed_in: SignedIn, ended: Ended) -> None:
    ended()
    page = text_of(signed_in(Role.VIEWER), "/requests/", min_seconds="soon", since="yesterday")
    assert 'role="alert"' in page and "/requests/chatcmpl-0001/" in page


def test_a_name_of_too_many_is_said(
    signed_in: SignedIn, ended: Ended, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended()
    client = signed_in(Role.VIEWER)
    monkeypatch.setattr("console.dashboard.forms.request_filter.MAX_OWNERS", 0)
    page = text_of(client, "/requests/", key="program")
    assert "More than 0 are called that" in page and "/requests/chatcmpl-0001/" in page


def test_an_id_leads_to_its_request(signed_in: SignedIn, ended: Ended) -> None:
    ended()
    client = signed_in(Role.VIEWER)
    assert client.get("/requests/", {"id": "chatcmpl-0001"})["Location"] == "/requests/chatcmpl-0001/"
    assert "/requests/chatcmpl-0001/" in text_of(client, "/requests/", id="chatcmpl-00")
    assert client.get("/requests/chatcmpl-9/").status_code == 404


def test_a_request_is_drawn_and_told(signed_in: SignedIn, ended: Ended) -> None:
    ended()
    page = text_of(signed_in(Role.VIEWER), "/requests/chatcmpl-0001/")
    for text in (
        "It waited 1.20 s in the queue for KV blocks, 30 % of its time.",
        "4 came from the prefix cache",
        "19 more took 2.50 s: 7.6 tokens per second, in batches of up to 212",
        "Queue: KV pool full",
        "the rows sum to 4.00 s",
        "the answer began to leave after 1.00 s",
        '<rect class="wait" x="0.1%" width="30%"',
    ):
        assert text in page, text
    assert "style=" not in page


def test_a_request_is_compared_with_others_of_its_caller(signed_in: SignedIn, ended: Ended) -> None:
    for _ in range(6):
        ended(total_seconds=2.0, created_at=timezone.now() - timedelta(hours=1))
    slow = ended(total_seconds=5.0)
    page = text_of(signed_in(Role.VIEWER), f"/requests/{slow.request_id}/")
    assert "2.5 times the median of this caller, 2.00 s" in page


def test_a_request_without_timings_says_so(signed_in: SignedIn, ended: Ended) -> None:
    row = ended(spans=[], outcome="failed", error_code="server_died", ttft_seconds=None)
    page = text_of(signed_in(Role.VIEWER), f"/requests/{row.request_id}/")
    assert "No timings were kept" in page and "The server ended while this ran" in page


def test_what_clients_write_is_shown_and_never_run(signed_in: SignedIn, ended: Ended) -> None:
    row = ended(model=HOSTILE, revision=HOSTILE, end_user=HOSTILE, error_code=HOSTILE, outcome="failed")
    client = signed_in(Role.VIEWER)
    for path in ("/requests/", f"/requests/{row.request_id}/"):
        page = text_of(client, path)
        assert HOSTILE not in page and "&lt;script&gt;" in page
    assert HOSTILE not in text_of(client, "/requests/", model=HOSTILE, id=HOSTILE, key=HOSTILE)


@pytest.mark.django_db(transaction=True)
async def test_the_export_has_every_row_of_the_filter(ended: Ended, monkeypatch: pytest.MonkeyPatch) -> None:
    from asgiref.sync import sync_to_async

    monkeypatch.setattr("console.dashboard.request_export.CHUNK_ROWS", 3)

    def prepare() -> User:
        from console.accounts.actions import create_user

        for _ in range(7):
            ended()
        ended(model="=1+1", end_user="@sum")
        return create_user(
            actor=Actor.person("test"), username="v", password="correct horse battery", role=Role.VIEWER
        )

    user = await sync_to_async(prepare)()
    client = AsyncClient()
    await client.aforce_login(user, backend=BACKEND)
    answer = await client.get("/requests/export.csv")
    text = b"".join([part async for part in answer]).decode()  # type: ignore[attr-defined]
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["request_id"] for row in rows] == [f"chatcmpl-{n:04}" for n in range(1, 9)]
    assert (rows[7]["model"], rows[7]["end_user"]) == ("'=1+1", "'@sum")
    answer = await client.get("/requests/export.csv", {"model": "=1+1"})
    assert len([line async for part in answer for line in part.splitlines()]) == 2  # type: ignore[attr-defined]


@pytest.mark.slow
def test_a_hundred_thousand_rows_are_no_burden(signed_in: SignedIn, issued: IssuedKey) -> None:
    client = signed_in(Role.VIEWER)
    start = timezone.now() - timedelta(days=10)
    rows = [
        UsageRecord(
            request_id=f"chatcmpl-{number:08}",
            owner=issued.key.public_id,
            key=issued.key,
            team=issued.key.team,
            model=f"m{number % 3}",
            revision="r",
            endpoint="chat.completions",
            transport="sse",
            outcome="failed" if number % 5000 == 0 else "finished",
            prompt_tokens=10,
            completion_tokens=20,
            total_seconds=9.0 if number % 20_000 == 0 else 1.0,
            spans=SPANS,
            created_at=start + timedelta(seconds=8 * number),
        )
        for number in range(100_000)
    ]
    UsageRecord.objects.bulk_create(rows, batch_size=5000)
    oldest = client.get("/requests/", {"until": f"{start + timedelta(hours=1):%Y-%m-%dT%H:%M}"})
    assert b"Older" in oldest.content
    for query in (
        {},
        {"outcome": "failed"},
        {"min_seconds": "5"},
        {"model": "m2"},
        {"key": "program"},
        {"key": "nobody"},
        {"error": "none"},
        {"id": "chatcmpl-0009999"},
        {"model": "m1", "outcome": "failed", "since": "30d"},
        {"before": f"{int((start + timedelta(days=5)).timestamp() * 1e6)}-50000"},
        {"after": f"{int((start + timedelta(days=5)).timestamp() * 1e6)}-50000"},
    ):
        (cost,) = costs_of_pages(client, [f"/requests/?{urlencode(query)}"]).values()
        assert cost.is_within(MOST_OF_A_PAGE), (query, cost)
