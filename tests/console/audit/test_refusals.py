"""Refusals: one row for a flood, one row for a person, and none lost."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator

import pytest
from django.db import DatabaseError
from django.test import Client

from console.accounts.models import User
from console.accounts.roles import Role
from console.audit import refusals
from console.audit.models import Entry
from console.audit.refusals import MAX_REASONS, MAX_ROWS_OF_ONE, MAX_SOURCES, REFUSALS, Refusals
from console.audit.verify import verify

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _nothing_counted_before() -> Iterator[None]:
    REFUSALS._tallies.clear()
    yield
    REFUSALS._tallies.clear()


def rows() -> list[tuple[str, str, dict[str, int]]]:
    entries = Entry.objects.filter(action="requests.refused").order_by("seq")
    return [(entry.target, entry.ip, json.loads(entry.detail)["counts"]) for entry in entries]


def test_ten_thousand_refusals_from_many_threads_are_a_few_rows_with_the_right_counts() -> None:
    counted = Refusals()

    def flood(number: int) -> None:
        for turn in range(1250):
            source = "key:unknown" if turn % 5 else "key:abc"
            counted.note(source=source, ip=f"10.0.0.{number % 2}", reason="401 invalid_api_key")

    threads = [threading.Thread(target=flood, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counted.flush() == 4
    totals = Counter({(source, ip): counts["401 invalid_api_key"] for source, ip, counts in rows()})
    assert totals.total() == 10_000
    assert totals["key:unknown", "10.0.0.0"] == 4000 and totals["key:abc", "10.0.0.1"] == 1000
    assert verify().is_intact
    assert counted.flush() == 0 and len(rows()) == 4


def test_memory_and_rows_stay_bounded_and_no_refusal_goes_uncounted() -> None:
    counted = Refusals()
    for number in range(1000):
        counted.note(source="key:unknown", ip=f"10.1.{number // 256}.{number % 256}", reason="401 x")
    for number in range(50):
        counted.note(source="key:a", ip="10.1.0.0", reason="401 x")
        counted.note(source="key:unknown", ip="10.1.0.0", reason=f"403 {number}")
    assert counted.flush() == MAX_SOURCES + 1
    assert sum(sum(counts.values()) for _, _, counts in rows()) == 1100
    assert max(len(counts) for _, _, counts in rows()) <= MAX_REASONS + 1
    assert ("others", "") in {(source, ip) for source, ip, _ in rows()}


def test_what_the_database_would_not_take_is_written_later(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Refusals(clock=lambda: 1_800_000_000.0)

    def broken(**columns: object) -> None:
        raise DatabaseError("disk full")

    counted.note(source="key:a", ip="::1", reason="429 rate_limit_exceeded")
    with monkeypatch.context() as patched:
        patched.setattr(refusals, "write", broken)
        assert counted.flush() == 0
    counted.note(source="key:a", ip="::1", reason="429 rate_limit_exceeded")
    assert counted.flush() == 1
    assert rows() == [("key:a", "::1", {"429 rate_limit_exceeded": 2})]


def test_a_person_who_may_not_is_one_row_whoever_refuses(make_user: Callable[[Role], User]) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(make_user(Role.VIEWER))
    token = client.get("/keys/").context["csrf_token"]
    tries = [
        ("/keys/issue", {"csrfmiddlewaretoken": str(token)}, "route:dashboard:key_issue"),
        ("/keys/issue", {}, "route:dashboard:key_issue"),  # refused by the check of the form's token
        ("/admin/audit/entry/add/", {"csrfmiddlewaretoken": str(token)}, "route:admin:audit_entry_add"),
    ]
    for path, data, route in tries:
        before = Entry.objects.count()
        assert client.post(path, data).status_code == 403
        entry = Entry.objects.order_by("-seq").first()
        assert entry is not None and Entry.objects.count() == before + 1
        assert (entry.actor, entry.action, entry.target) == ("the-viewer", "access.refused", route)


def test_a_person_who_goes_on_trying_is_a_few_rows_and_the_rest_are_counted(
    make_user: Callable[[Role], User],
) -> None:
    client = Client()
    client.force_login(make_user(Role.VIEWER))
    paths = ["/keys/issue", "/operators/new", "/models/import"] * 40
    before = Entry.objects.count()
    assert {client.get(path).status_code for path in paths} <= {403, 404}
    num_refused = sum(client.get(path).status_code == 403 for path in paths) * 2
    assert num_refused > 100
    assert Entry.objects.count() == before + MAX_ROWS_OF_ONE
    REFUSALS.flush()
    [(source, _, counts)] = rows()
    assert source == "user:the-viewer"
    assert sum(counts.values()) == num_refused - MAX_ROWS_OF_ONE


def test_rows_of_one_person_come_anew_each_minute_and_take_none_from_others() -> None:
    now = [0.0]
    refused = Refusals(clock=lambda: now[0])
    assert [refused.has_row("user:a") for _ in range(100)].count(True) == MAX_ROWS_OF_ONE
    assert refused.has_row("user:b")
    now[0] += 60
    assert refused.has_row("user:a")


def test_a_stranger_who_is_refused_is_counted(db: None) -> None:
    client = Client(enforce_csrf_checks=True)
    for _ in range(3):
        assert client.post("/account/sign-in/", {"login": "x", "password": "y"}).status_code == 403
    assert not Entry.objects.exists()
    assert REFUSALS.flush() == 1
    assert rows() == [("stranger", "127.0.0.1", {"403 account_login": 3})]


def test_wrong_passwords_are_a_row_each_the_lockout_one_and_tries_after_it_are_counted(
    make_user: Callable[[Role], User], settings: object
) -> None:
    name = make_user(Role.VIEWER).username
    client = Client()
    for _ in range(settings.AXES_FAILURE_LIMIT + 5):  # type: ignore[attr-defined]
        client.post("/account/sign-in/", {"login": name, "password": "wrong"})
    actions = Counter(Entry.objects.filter(target=f"user:{name}").values_list("action", flat=True))
    assert actions["login.failed"] == settings.AXES_FAILURE_LIMIT  # type: ignore[attr-defined]
    assert actions["login.locked"] == 1
    REFUSALS.flush()
    assert rows() == [(f"user:{name}", "127.0.0.1", {"sign-in while locked": 5})]


def test_a_persons_own_new_password_is_a_row(make_user: Callable[[Role], User]) -> None:
    client = Client()
    client.force_login(make_user(Role.VIEWER))
    form = {
        "oldpassword": "correct horse battery",
        "password1": "a new long secret",
        "password2": "a new long secret",
    }
    before = list(Entry.objects.values_list("seq", flat=True))
    assert client.post("/account/password/", form).status_code == 302
    entries = Entry.objects.exclude(seq__in=before).values_list("actor", "action", "target")
    assert list(entries) == [("the-viewer", "user.password_changed", "user:the-viewer")]


def test_django_admin_leads_to_the_page_that_changes_passwords_with_a_row(
    make_user: Callable[[Role], User],
) -> None:
    client = Client()
    client.force_login(make_user(Role.VIEWER))
    answer = client.post("/admin/password_change/", {"old_password": "x"})
    assert (answer.status_code, answer.headers["location"]) == (302, "/account/password/")
