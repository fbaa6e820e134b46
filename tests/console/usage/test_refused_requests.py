"""Refusal requests: rows up to a number a minute, then a count, and never an fsync each."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest
from django.db import OperationalError, connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from console.keys.actions import IssuedKey
from console.usage import refused_requests
from console.usage.models import RefusedRequest
from console.usage.refused_queries import num_refused
from console.usage.refused_requests import MAX_NOTED, MAX_ROWS, Refusal, RefusedLog, sweep

pytestmark = pytest.mark.django_db(transaction=True)

NOON = datetime(2026, 11, 30, 12, 0, 10, tzinfo=UTC)


class Clock:
    def __init__(self) -> None:
        self.now = NOON

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def log(clock: Clock) -> RefusedLog:
    return RefusedLog(clock)


def note(log: RefusedLog, owner: str, code: str = "rate_limit_exceeded", *, times: int = 1) -> None:
    for _ in range(times):
        log.note(Refusal(owner=owner, status=429, code=code, at=log._clock()))


def test_each_one_has_a_row_with_the_limit_and_when_it_frees(log: RefusedLog, issued: IssuedKey) -> None:
    about = {"limit": "requests_per_minute", "limit_value": 3, "frees_at": NOON + timedelta(seconds=20)}
    owner = issued.key.public_id
    log.note(Refusal(owner=owner, status=429, code="rate_limit_exceeded", at=NOON, **about))
    assert log.flush() == 1
    row = RefusedRequest.objects.get()
    assert (row.owner, row.limit, row.limit_value, row.frees_at) == (owner, *about.values())
    assert row.count == 1


@pytest.mark.parametrize("num_flushes", [1, 7])
def test_what_comes_beyond_the_rows_of_a_minute_is_counted(
    log: RefusedLog, clock: Clock, issued: IssuedKey, num_flushes: int
) -> None:
    owner, num = issued.key.public_id, 3 * MAX_ROWS // num_flushes
    for _ in range(num_flushes):
        note(log, owner, times=num)
        log.flush()
    assert RefusedRequest.objects.count() == MAX_ROWS
    clock.now += timedelta(minutes=1)
    log.flush()
    assert RefusedRequest.objects.count() == MAX_ROWS + 1
    assert num_refused(since=NOON - timedelta(hours=1), owner=owner) == num * num_flushes


def test_keys_that_nobody_has_share_one_name(log: RefusedLog) -> None:
    for number in range(5 * MAX_ROWS):
        note(log, f"invented{number}", "invalid_api_key")
    log.flush(is_last=True)
    assert set(RefusedRequest.objects.values_list("owner", flat=True)) == {""}
    assert RefusedRequest.objects.count() <= MAX_ROWS + 1


def test_a_flood_is_bounded_in_memory_and_costs_few_statements(log: RefusedLog, clock: Clock) -> None:
    note(log, "", times=MAX_NOTED + 500)
    assert len(log._noted) == MAX_NOTED
    with CaptureQueriesContext(
        connection,
    ) as asked:
        log.flush()
    assert len(asked) <= 3  # who the claimed keys are; the rows are written by the ledger's thread
    clock.now += timedelta(minutes=1)
    log.flush()
    log.flush(is_last=True)
    assert num_refused(since=NOON - timedelta(hours=1)) == MAX_NOTED + 500


def test_what_is_old_or_too_much_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = timezone.now()
    for age in (40, 29, 1, 1, 1):
        RefusedRequest.objects.create(at=now - timedelta(days=age), status=400, code="x")
    sweep()
    assert RefusedRequest.objects.count() == 4
    monkeypatch.setattr(refused_requests, "MAX_KEPT", 2)
    sweep()
    assert RefusedRequest.objects.count() == 2


def test_a_database_that_is_away_loses_no_count(
    log: RefusedLog, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(rows: object) -> None:
        raise OperationalError("database is locked")

    create: Callable[..., object] = RefusedRequest.objects.bulk_create
    monkeypatch.setattr(RefusedRequest.objects, "bulk_create", fail)
    note(log, "", times=3)
    assert log.flush() == 0
    monkeypatch.setattr(RefusedRequest.objects, "bulk_create", create)
    log.flush(is_last=True)
    assert num_refused(since=NOON - timedelta(hours=1)) == 3
