"""The alarm on the audit page and at home: seen by everybody, cleared by an admin with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from console.accounts.models import User
from console.accounts.roles import Role
from console.audit.alarm import ALARMS
from console.audit.models import Entry
from console.audit.verify import verify
from console.audit.watch import WATCH
from monitoring.metrics import AUDIT_ALARM
from tests.console.audit.insider import edit_and_rewrite, unseen

pytestmark = pytest.mark.django_db(transaction=True)

LIST = "/admin/audit/entry/"
CLEAR = f"{LIST}clear-alarm/"
PASSWORD = "correct horse battery"


def signed_in(user: User) -> Client:
    client = Client()
    client.force_login(user, backend="django.contrib.auth.backends.ModelBackend")
    return client


@pytest.fixture
def admin(make_user: Callable[[Role], User]) -> Client:
    """Signed in, and the log tampered with."""
    WATCH.forget()
    client = signed_in(make_user(Role.ADMIN))
    for number in range(3):
        Client().post("/account/sign-in/", {"login": f"stranger {number}", "password": "x"})
    unseen(edit_and_rewrite)
    Client().post("/account/sign-in/", {"login": "stranger", "password": "x"})
    return client


def test_every_page_that_matters_says_it_and_goes_on_saying_it(admin: Client) -> None:
    for _ in range(3):
        WATCH.forget()
        assert "Alarm since" in admin.get(LIST).content.decode()
        assert "The audit log is not what was written" in admin.get("/").content.decode()
        Client().post("/account/sign-in/", {"login": "stranger", "password": "x"})
    ALARMS.current()
    assert AUDIT_ALARM._value.get() == 1  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("role", [Role.VIEWER, Role.OPERATOR])
def test_only_an_admin_clears_it(admin: Client, make_user: Callable[[Role], User], role: Role) -> None:
    other = signed_in(make_user(role))
    page = other.get(LIST).content.decode()
    assert "Alarm since" in page and CLEAR not in page
    assert other.post(CLEAR, {"reason": "nothing"}).status_code == 403
    assert Client().post(CLEAR, {"reason": "nothing"}).status_code == 302
    assert ALARMS.current() is not None


def test_clearing_takes_a_reason_and_leaves_a_row(admin: Client) -> None:
    assert CLEAR in admin.get(LIST).content.decode()
    assert admin.get(CLEAR).status_code in (302, 405) and ALARMS.current() is not None
    admin.post(CLEAR, {"reason": " "})
    assert ALARMS.current() is not None
    admin.post(CLEAR, {"reason": "a restore that I made"})
    entry = Entry.objects.get(action="audit.alarm_cleared")
    assert (entry.actor, json.loads(entry.detail)["reason"]) == ("the-admin", "a restore that I made")
    assert "Alarm since" not in admin.get(LIST).content.decode()
    assert "not what was written" not in admin.get("/").content.decode()
    assert verify().is_intact


def test_people_sign_in_whatever_became_of_the_checkpoint(
    make_user: Callable[[Role], User], settings: Any
) -> None:
    name = make_user(Role.ADMIN).username
    for content in ('{"seq": 1}', "", "{", "null"):
        Path(settings.AUDIT_CHECKPOINT).write_text(content)
        answer = Client().post("/account/sign-in/", {"login": name, "password": PASSWORD})
        assert (answer.status_code, answer.headers["location"]) == (302, "/")
    assert ALARMS.current() is not None
