"""The first operator, and passwords that were lost."""

from __future__ import annotations

from importlib import import_module
from io import StringIO

import pytest
from django.conf import settings
from django.contrib.auth import authenticate, login, logout
from django.core.management import CommandError, call_command
from django.test import Client, RequestFactory

from console.accounts.actions import default_team, ensure_operator
from console.accounts.models import Team, User
from console.audit.actor import Actor
from console.audit.models import Entry

pytestmark = pytest.mark.django_db


def signed_in(password: str | None) -> object:
    """Who `admin` with this password is, or None."""
    return authenticate(RequestFactory().post("/"), username="admin", password=password)


def test_the_first_start_makes_an_admin_and_shows_the_password_once() -> None:
    password = ensure_operator(actor=Actor.system("serve"))
    assert password is not None and len(password) == 27
    user = signed_in(password)
    assert isinstance(user, User) and user.is_admin
    assert ensure_operator(actor=Actor.system("serve")) is None
    assert User.objects.count() == 1
    entry = Entry.objects.get()
    assert entry.action == "user.created" and password not in entry.detail


def test_the_default_team_is_made_once_with_a_salt_of_its_own() -> None:
    assert default_team() == default_team()
    other = Team.objects.create(name="other")
    assert len(other.salt) == 32 and other.salt != default_team().salt


def test_reset_password_prints_one_that_works_and_ends_sessions() -> None:
    old = ensure_operator(actor=Actor.system("serve"))
    browser = Client()
    browser.force_login(User.objects.get())
    assert browser.get("/admin/").status_code == 200
    out = StringIO()
    call_command("reset_password", "admin", stdout=out)
    new = out.getvalue().strip()
    assert signed_in(new) is not None
    assert signed_in(old) is None
    assert browser.get("/admin/").status_code == 302  # to the sign-in page
    entry = Entry.objects.get(action="user.password_reset")
    assert new not in entry.detail and entry.actor == "command line"


def test_reset_password_takes_one_from_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    ensure_operator(actor=Actor.system("serve"))
    out = StringIO()
    monkeypatch.setattr("sys.stdin", StringIO("a long enough phrase\n"))
    call_command("reset_password", "admin", "--stdin", stdout=out)
    assert out.getvalue() == ""
    assert signed_in("a long enough phrase") is not None


@pytest.mark.parametrize("weak", ["", "short", "password1234"])
def test_reset_password_refuses_weak_ones(weak: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = ensure_operator(actor=Actor.system("serve"))
    monkeypatch.setattr("sys.stdin", StringIO(weak + "\n"))
    with pytest.raises(CommandError):
        call_command("reset_password", "admin", "--stdin")
    assert signed_in(old) is not None


def test_reset_password_of_nobody_says_so() -> None:
    with pytest.raises(CommandError, match="no account"):
        call_command("reset_password", "nobody")


def test_sign_ins_refusals_and_sign_outs_are_written_down() -> None:
    password = ensure_operator(actor=Actor.system("serve"))
    request = RequestFactory().post("/", REMOTE_ADDR="192.0.2.7")
    request.session = import_module(settings.SESSION_ENGINE).SessionStore()
    assert authenticate(request, username="admin", password="wrong") is None
    user = authenticate(request, username="admin", password=password)
    assert isinstance(user, User)
    login(request, user)
    request.user = user
    logout(request)
    entries = Entry.objects.exclude(action="user.created").order_by("seq")
    assert list(entries.values_list("actor", "action", "target", "ip")) == [
        ("anonymous", "login.failed", "user:admin", "192.0.2.7"),
        ("admin", "login.succeeded", "user:admin", "192.0.2.7"),
        ("admin", "logout", "user:admin", "192.0.2.7"),
    ]
    assert "wrong" not in "".join(Entry.objects.values_list("detail", flat=True))
