"""Every list of the pages and the management API asks which rows its reader may see."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.test import Client

from console.accounts.models import User
from console.accounts.roles import Role
from console.audit import visibility
from console.audit.actor import Actor
from console.keys.actions import IssuedKey
from tests.catalog_rows import serve
from tests.console.api.conftest import BACKEND, Call

pytestmark = pytest.mark.django_db

PAGES = {
    "/": {"UsageRecord", "Entry", "RefusedRequest"},
    "/keys/": {"ApiKey"},
    "/requests/": {"UsageRecord", "RefusedRequest"},
    "/requests/?show=refused": {"RefusedRequest"},
    "/models/": {"ServedModel"},
    "/models/stub/": {"Revision"},
    "/rollouts/": {"Rollout", "Route"},
    "/jobs/": {"Job"},
    "/operators/": {"User"},
}
LISTS = {
    "keys": "ApiKey",
    "requests": "UsageRecord",
    "models": "ServedModel",
    "revisions": "Revision",
    "routes": "Route",
    "rollouts": "Rollout",
    "jobs": "Job",
    "people": "User",
    "teams": "Team",
    "audit": "Entry",
}


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Actor, str]]:
    """Who asked, for rows of which table; nobody gets any."""
    found: list[tuple[Actor, str]] = []

    def nothing(actor: Actor, rows: Any) -> Any:
        found.append((actor, rows.model.__name__))
        return rows.none()

    monkeypatch.setattr(visibility, "visible_to", nothing)
    return found


@pytest.mark.parametrize("path", PAGES)
def test_a_page_lists_what_its_reader_may_see(
    path: str, asked: list[tuple[Actor, str]], make_user: Callable[[Role], User]
) -> None:
    serve()
    person, client = make_user(Role.ADMIN), Client()
    client.force_login(person, backend=BACKEND)
    assert client.get(path).status_code == 200
    assert {table for _, table in asked} >= PAGES[path]
    assert {(one.name, one.id) for one, _ in asked} == {(person.username, f"user:{person.pk}")}


@pytest.mark.parametrize("path", LISTS)
def test_a_list_of_the_management_api_holds_what_its_reader_may_see(
    path: str, asked: list[tuple[Actor, str]], admin: Call
) -> None:
    serve()
    answer: Any = admin("GET", path)
    assert answer.status_code == 200 and answer.json()["data"] == []
    assert LISTS[path] in {table for _, table in asked}


def test_a_program_is_known_by_its_key(
    asked: list[tuple[Actor, str]], program: Call, management_key: IssuedKey
) -> None:
    program("GET", "keys")
    assert {(one.name, one.id) for one, _ in asked} == {
        (f"key:{management_key.key.public_id}", management_key.key.public_id)
    }
