"""Who reads the database is signed in as nobody."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from allauth.usersessions.models import UserSession
from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client

from console.accounts.actions import change_role, save_team, save_user, set_active
from console.accounts.models import User
from console.accounts.roles import Role
from console.accounts.sessions import SessionStore, with_sessions
from console.audit.actor import Actor
from console.audit.models import Entry

pytestmark = pytest.mark.django_db

PASSWORD = "correct horse battery"


def signed_in(name: str, agent: str = "a browser") -> Client:
    """By the page, as people do."""
    client = Client(headers={"user-agent": agent})
    assert client.post("/account/sign-in/", {"login": name, "password": PASSWORD}).status_code == 302
    return client


def cookie(client: Client) -> str:
    return client.cookies[settings.SESSION_COOKIE_NAME].value


def is_signed_in(value: str) -> bool:
    client = Client()
    client.cookies[settings.SESSION_COOKIE_NAME] = value
    return client.get("/").status_code == 200


def everything_stored() -> set[str]:
    """Each text of each table, as a dump has it."""
    found: set[str] = set()
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names():
            cursor.execute(f'SELECT * FROM "{table}"')
            found |= {value for row in cursor.fetchall() for value in row if isinstance(value, str)}
    return found


@pytest.mark.parametrize("role", list(Role))
def test_no_text_of_the_database_is_a_cookie(make_user: Callable[[Role], User], role: Role) -> None:
    name = make_user(role).username
    clients = [signed_in(name) for _ in range(3)]
    assert all(is_signed_in(cookie(client)) for client in clients)
    stored = everything_stored()
    assert Session.objects.count() == 3 == UserSession.objects.count()
    assert {one.session_key for one in Session.objects.all()} <= stored
    assert not any(is_signed_in(text) for text in stored if 8 <= len(text) <= 200 and text.isascii())
    assert not any(cookie(client) in text for client in clients for text in stored)


def test_a_session_lasts_over_requests_and_ends_with_the_sign_out(make_user: Callable[[Role], User]) -> None:
    client = signed_in(make_user(Role.VIEWER).username)
    value = cookie(client)
    for _ in range(2):
        assert client.get("/").status_code == 200
    assert cookie(client) == value
    client.post("/account/sign-out/")
    assert not is_signed_in(value) and not Session.objects.exists()


def test_signing_in_gives_a_new_cookie(make_user: Callable[[Role], User]) -> None:
    """Nobody knows a session's secret from before."""
    name = make_user(Role.VIEWER).username
    client = Client()
    client.cookies[settings.SESSION_COOKIE_NAME] = "x" * 32
    client.post("/account/sign-in/", {"login": name, "password": PASSWORD})
    assert cookie(client) != "x" * 32 and not is_signed_in("x" * 32)


def test_a_new_password_ends_the_others_and_gives_this_one_a_new_cookie(
    make_user: Callable[[Role], User],
) -> None:
    name = make_user(Role.VIEWER).username
    here, there = signed_in(name), signed_in(name)
    before = cookie(here)
    new = "an even longer secret"
    form = {"oldpassword": PASSWORD, "password1": new, "password2": new}
    assert here.post("/account/password/", form).status_code == 302
    assert here.get("/").status_code == 200
    assert not is_signed_in(before) and not is_signed_in(cookie(there))


def test_the_list_shows_all_and_ends_the_others_with_a_row(make_user: Callable[[Role], User]) -> None:
    name = make_user(Role.VIEWER).username
    here, there = signed_in(name, "Firefox here"), signed_in(name, "Firefox there")
    page = here.get("/account/sessions/").content.decode()
    assert "Firefox here" in page and "Firefox there" in page and page.count("This one") == 1
    assert here.post("/account/sessions/").status_code == 302
    assert is_signed_in(cookie(here)) and not is_signed_in(cookie(there))
    entry = Entry.objects.get(action="sessions.ended")
    assert (entry.actor, json.loads(entry.detail)) == (name, {"number": 1})
    here.post("/account/sessions/")
    assert Entry.objects.filter(action="sessions.ended").count() == 1  # there were no others left


@pytest.mark.django_db(transaction=True)
def test_a_websocket_knows_the_session_by_its_cookie_alone(make_user: Callable[[Role], User]) -> None:
    client = signed_in(make_user(Role.OPERATOR).username)
    seen: list[Any] = []

    async def consumer(scope: Any, receive: Any, send: Any) -> None:
        seen.append(await scope["session"].aget("_auth_user_id"))

    def connect(value: str) -> None:
        header = f"{settings.SESSION_COOKIE_NAME}={value}".encode()
        scope = {"type": "websocket", "path": "/", "headers": [(b"cookie", header)]}
        async_to_sync(with_sessions(consumer))(scope, None, None)

    connect(cookie(client))
    connect(Session.objects.get().session_key)
    connect("")
    assert seen == [str(User.objects.get().pk), None, None]


def test_a_name_leads_to_the_session_for_who_has_the_database() -> None:
    store = SessionStore()
    store["a"] = 1
    store.save()
    assert store.secret is not None and store.secret != store.session_key
    assert SessionStore(store.session_key).load() == {"a": 1}
    assert SessionStore.of_cookie(store.secret).load() == {"a": 1}
    assert SessionStore.of_cookie(store.session_key).load() == {}


def test_what_changes_nothing_leaves_no_row(make_user: Callable[[Role], User]) -> None:
    user, other = make_user(Role.ADMIN), make_user(Role.VIEWER)
    before = Entry.objects.count()
    change_role(actor=Actor.person("a"), username=other.username, role=Role.VIEWER)
    set_active(actor=Actor.person("a"), username=other.username, is_active=True)
    save_user(actor=Actor.person("a"), user=user, changed=[])
    save_team(actor=Actor.person("a"), team=user.teams.get())
    assert Entry.objects.count() == before
    set_active(actor=Actor.person("a"), username=other.username, is_active=False)
    set_active(actor=Actor.person("a"), username=other.username, is_active=False)
    assert Entry.objects.count() == before + 1
