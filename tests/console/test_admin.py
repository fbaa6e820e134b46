"""Django admin over keys, people, ledger and audit log: what it shows, refuses and writes down."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib import admin
from django.http import HttpResponse
from django.test import Client
from django.utils import timezone

from console.accounts.models import Team, User
from console.accounts.roles import Role
from console.audit.actor import Actor
from console.audit.models import Entry
from console.keys.actions import IssuedKey
from console.keys.models import ApiKey
from console.keys.token import parse
from console.limits.actions import set_budget
from console.limits.models import Limit
from console.usage.models import UsageRecord
from console.usage.record import record
from tests.console.limits.requests import ended

pytestmark = pytest.mark.django_db

LISTS = [
    "audit/entry",
    "usage/usagerecord",
    "keys/apikey",
    "limits/limit",
    "limits/ticket",
    "accounts/user",
    "accounts/team",
]
READ_ONLY = ["audit/entry", "usage/usagerecord", "limits/limit", "limits/ticket"]


@pytest.fixture
def sign_in(make_user: Callable[[Role], User]) -> Callable[[Role], Client]:
    def signed_in(role: Role) -> Client:
        client = Client()
        client.force_login(make_user(role))
        return client

    return signed_in


@pytest.fixture
def rows(issued: IssuedKey) -> dict[str, Any]:
    limit = set_budget(actor=Actor.person("test"), key=issued.key, budget_tokens=10)
    row = record(
        request_id="r1",
        owner=issued.key.public_id,
        team_id=issued.key.team_id,
        key_id=issued.key.pk,
        settlement=ended(end_user="eva"),
    )
    return {
        "audit/entry": 1,
        "usage/usagerecord": row.pk,
        "limits/limit": limit.pk,
        "keys/apikey": issued.key.pk,
    }


def actions_since(seq: int) -> list[str]:
    return list(Entry.objects.filter(seq__gt=seq).order_by("seq").values_list("action", flat=True))


def last_seq() -> int:
    return Entry.objects.order_by("-seq").values_list("seq", flat=True).first() or 0


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize("page", LISTS)
def test_every_role_sees_every_list(
    page: str, role: Role, sign_in: Callable[[Role], Client], rows: dict[str, Any]
) -> None:
    answer = sign_in(role).get(f"/admin/{page}/?q=program")
    assert answer.status_code == 200


@pytest.mark.parametrize("page", READ_ONLY)
def test_even_a_superuser_changes_nothing_in_ledger_and_audit_log(page: str, rows: dict[str, Any]) -> None:
    client = Client()
    client.force_login(User.objects.create_superuser("root"))
    assert client.get(f"/admin/{page}/add/").status_code == 403
    if pk := rows.get(page):
        assert client.get(f"/admin/{page}/{pk}/change/").status_code == 200
        assert client.post(f"/admin/{page}/{pk}/change/", {"actor": "x"}).status_code == 403
        assert client.post(f"/admin/{page}/{pk}/delete/", {"post": "yes"}).status_code == 403
    client.post(f"/admin/{page}/", {"action": "delete_selected", "_selected_action": "1", "post": "yes"})
    assert Entry.objects.filter(seq=1).exists()
    assert UsageRecord.objects.count() == Limit.objects.count() == 1


def test_issuing_a_key_shows_its_secret_once(sign_in: Callable[[Role], Client], team: Team) -> None:
    client, before = sign_in(Role.OPERATOR), last_seq()
    answer = client.post("/admin/keys/apikey/add/", {"name": "robot", "team": team.pk})
    found = re.search(r"ph_\w+", answer.content.decode())
    assert found is not None
    token = parse(found[0])
    assert token is not None and ApiKey.objects.get().public_id == token.public_id
    assert "no-store" in answer["Cache-Control"]
    assert actions_since(before) == ["key.issued"]
    assert token.text not in str(client.cookies) + str(dict(client.session))
    for page in ("", f"{ApiKey.objects.get().pk}/change/"):
        later = client.get(f"/admin/keys/apikey/{page}").content.decode()
        assert token.text not in later and ApiKey.objects.get().digest not in later


def test_revoking_keys_is_an_action(sign_in: Callable[[Role], Client], rows: dict[str, Any]) -> None:
    client, before = sign_in(Role.OPERATOR), last_seq()
    client.post("/admin/keys/apikey/", {"action": "revoke_keys", "_selected_action": rows["keys/apikey"]})
    revoked_at = ApiKey.objects.get().revoked_at
    assert revoked_at is not None and revoked_at <= timezone.now()
    assert actions_since(before) == ["key.revoked"]


def test_a_viewer_neither_issues_nor_revokes(
    sign_in: Callable[[Role], Client], rows: dict[str, Any], team: Team
) -> None:
    client = sign_in(Role.VIEWER)
    assert client.post("/admin/keys/apikey/add/", {"name": "robot", "team": team.pk}).status_code == 403
    client.post("/admin/keys/apikey/", {"action": "revoke_keys", "_selected_action": rows["keys/apikey"]})
    assert ApiKey.objects.get().revoked_at is None


def test_an_operator_does_not_touch_people(sign_in: Callable[[Role], Client]) -> None:
    client = sign_in(Role.OPERATOR)
    assert client.get("/admin/accounts/user/add/").status_code == 403
    assert client.post("/admin/accounts/team/add/", {"name": "mine"}).status_code == 403


def post_user(client: Client, path: str, **fields: Any) -> HttpResponse:
    inline = {"memberships-TOTAL_FORMS": 0, "memberships-INITIAL_FORMS": 0}
    return client.post(f"/admin/accounts/user/{path}", inline | fields)  # type: ignore[return-value]


def test_an_admin_makes_and_changes_people_and_all_of_it_is_written_down(
    sign_in: Callable[[Role], Client], team: Team
) -> None:
    client, before = sign_in(Role.ADMIN), last_seq()
    words = {"password1": "a long enough phrase", "password2": "a long enough phrase"}
    post_user(client, "add/", username="mara", role="viewer", usable_password="true", **words)
    mara = User.objects.get(username="mara")
    assert mara.role == Role.VIEWER and list(mara.teams.all()) == [team]
    post_user(client, f"{mara.pk}/change/", username="mara", email="mara@example.org")
    mara.refresh_from_db()
    assert mara.email == "mara@example.org"
    words = {"password1": "another long phrase", "password2": "another long phrase"}
    client.post(f"/admin/accounts/user/{mara.pk}/password/", {"usable_password": "true", **words})
    mara.refresh_from_db()
    assert mara.check_password("another long phrase")
    assert actions_since(before) == ["user.created", "user.changed", "user.password_reset"]
    assert "phrase" not in "".join(Entry.objects.values_list("detail", flat=True))


def test_roles_and_disabling_are_left_to_the_operators_page_which_keeps_the_last_admin(
    sign_in: Callable[[Role], Client],
) -> None:
    client = sign_in(Role.ADMIN)
    me = User.objects.get()
    post_user(client, f"{me.pk}/change/", username=me.username, role="viewer")
    me.refresh_from_db()
    assert (me.role, me.is_active) == (Role.ADMIN, True)


def test_a_refused_password_is_no_entry(sign_in: Callable[[Role], Client]) -> None:
    client, before = sign_in(Role.ADMIN), last_seq()
    me = User.objects.get()
    answer = client.post(f"/admin/accounts/user/{me.pk}/password/", {"password1": "x", "password2": "x"})
    assert answer.status_code == 200
    assert actions_since(before) == []


def test_teams_are_made_and_named_by_admins(sign_in: Callable[[Role], Client]) -> None:
    client, before = sign_in(Role.ADMIN), last_seq()
    client.post("/admin/accounts/team/add/", {"name": "research"})
    research = Team.objects.get(name="research")
    client.post(f"/admin/accounts/team/{research.pk}/change/", {"name": "lab"})
    assert Team.objects.get(pk=research.pk).name == "lab"
    assert actions_since(before) == ["team.created", "team.changed"]


def test_groups_are_gone() -> None:
    assert "auth.group" not in {model._meta.label_lower for model in admin.site._registry}
