"""Home tells of requests and changes as the ledger and the audit log have them."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from console.accounts.roles import Role
from console.audit.actor import SYSTEM
from console.keys.actions import IssuedKey
from console.usage.models import UsageRecord
from console.usage.queries import totals_since
from tests.console.dashboard.conftest import SignedIn

HOSTILE = "<script>alert(1)</script>"


def request_row(issued: IssuedKey, number: int = 1, **columns: Any) -> UsageRecord:
    certificate_status = {
        "request_id": f"r{number}",
        "owner": issued.key.public_id,
        "key": issued.key,
        "team": issued.key.team,
        "model": "m",
        "revision": "m-1",
        "endpoint": "chat",
        "outcome": "finished",
        "finish_reason": "stop",
        "prompt_tokens": 10,
        "cached_tokens": 4,
        "completion_tokens": 20,
        "created_at": timezone.now(),
    }
    return UsageRecord.objects.create(**(certificate_status | columns))


def test_an_empty_console_names_the_next_step(signed_in: SignedIn) -> None:
    page = signed_in(Role.ADMIN).get("/").content.decode()
    assert "No request yet" in page
    assert "Issue a key and call the API" in page
    assert "No engine in this process" in page


def test_the_newest_requests_are_listed_with_tokens_and_times(signed_in: SignedIn, issued: IssuedKey) -> None:
    request_row(issued, 1, ttft_seconds=0.184, total_seconds=1.31)
    request_row(issued, 2, outcome="failed", error_code="queue_timeout")
    page = signed_in(Role.VIEWER).get("/home/requests").content.decode()
    for text in ("184 ms", "1.31 s", "queue_timeout", "stop", issued.key.name):
        assert text in page, text


def test_what_clients_write_is_shown_and_never_run(signed_in: SignedIn, issued: IssuedKey) -> None:
    request_row(issued, model=HOSTILE, finish_reason="", error_code=HOSTILE, outcome="failed")
    client = signed_in(Role.VIEWER)
    for path in ("/", "/home/requests"):
        page = client.get(path).content.decode()
        assert HOSTILE not in page
        assert "&lt;script&gt;" in page


@pytest.mark.parametrize("language", ["en", "zh-hans"])
def test_figures_are_grouped_in_both_languages(signed_in: SignedIn, issued: IssuedKey, language: str) -> None:
    request_row(issued, completion_tokens=1_234_567)
    client = signed_in(Role.VIEWER)
    client.cookies["django_language"] = language
    assert "1,234,567" in client.get("/home/figures").content.decode()


def test_totals_count_what_arrived_since(issued: IssuedKey) -> None:
    now = timezone.now()
    request_row(issued, 1, created_at=now)
    request_row(issued, 2, created_at=now, outcome="failed")
    request_row(issued, 3, created_at=now, outcome="cancelled")
    request_row(issued, 4, created_at=now - timedelta(hours=2))
    totals = totals_since(SYSTEM, moment=now - timedelta(hours=1))
    assert (totals.num_requests, totals.num_failed, totals.num_cancelled) == (3, 1, 1)
    assert (totals.prompt_tokens, totals.cached_tokens, totals.completion_tokens) == (30, 12, 60)
    assert totals.failed_percent == pytest.approx(100 / 3)


def test_nothing_has_no_failure_rate(db: None) -> None:
    assert totals_since(SYSTEM, moment=timezone.now()).failed_percent is None
