"""Callers of the management API: people of each role, and a program with a management key."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Protocol

import pytest
from django.http import HttpResponse
from django.test import Client

from console.accounts.models import Team, User
from console.accounts.roles import Role
from console.audit.actor import Actor
from console.audit.models import Entry
from console.keys.actions import IssuedKey, issue
from console.keys.scopes import MANAGEMENT

BACKEND = "django.contrib.auth.backends.ModelBackend"
API = "/api/v1/"


class Call(Protocol):
    def __call__(self, method: str, path: str, body: Any = None) -> HttpResponse: ...


def caller(client: Client) -> Call:
    def call(method: str, path: str, body: Any = None) -> HttpResponse:
        text = "" if body is None else body if isinstance(body, str) else json.dumps(body)
        return client.generic(method, API + path, text, content_type="application/json")  # type: ignore[return-value]

    return call


@pytest.fixture
def as_role(make_user: Callable[[Role], User]) -> Callable[[Role], Call]:
    def sign_in(role: Role) -> Call:
        client = Client()
        client.force_login(make_user(role), backend=BACKEND)
        return caller(client)

    return sign_in


@pytest.fixture
def admin(as_role: Callable[[Role], Call]) -> Call:
    return as_role(Role.ADMIN)


@pytest.fixture
def operator(as_role: Callable[[Role], Call]) -> Call:
    return as_role(Role.OPERATOR)


@pytest.fixture
def management_key(team: Team) -> IssuedKey:
    return issue(actor=Actor.person("test"), name="terraform", team=team, scopes=[MANAGEMENT])


@pytest.fixture
def program(management_key: IssuedKey) -> Call:
    return caller(Client(headers={"Authorization": f"Bearer {management_key.secret}"}))


def last_seq() -> int:
    return Entry.objects.order_by("-seq").values_list("seq", flat=True).first() or 0


def entries_since(seq: int) -> list[tuple[str, str, str]]:
    return list(Entry.objects.filter(seq__gt=seq).order_by("seq").values_list("actor", "action", "target"))


def error_of(answer: HttpResponse) -> dict[str, Any]:
    body = answer.json()  # type: ignore[attr-defined]
    assert body.keys() == {"error"} and body["error"].keys() == {"message", "type", "param", "code"}
    return body["error"]  # type: ignore[no-any-return]
