"""Role x route x method, from the resolver: what the policy says is what happens, to people and programs."""

from __future__ import annotations

from collections.abc import Callable
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import get_resolver, reverse

from console.accounts.models import Team, User
from console.accounts.roles import Role
from console.api import urls
from console.audit.actor import Actor
from console.audit.models import Entry
from console.keys.actions import IssuedKey, issue, revoke
from console.keys.scopes import endpoint_scopes
from console.policy import API, Who
from tests.console.api.conftest import BACKEND, Call, caller, entries_since, error_of, last_seq

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
ENOUGH = {
    Who.STAFF: {Role.VIEWER, Role.OPERATOR, Role.ADMIN},
    Who.OPERATOR: {Role.OPERATOR, Role.ADMIN},
    Who.ADMIN: {Role.ADMIN},
}
ROUTES = [route for route in urls.urlpatterns if route.name != "nothing_here"]
NAMES = [f"api:{route.name}" for route in ROUTES]
PAGE = "api:docs"  # the one that is a page: strangers are led to sign in


def address(name: str) -> str:
    """Some URL of the route: ids that do not exist suffice, since the policy is asked first."""
    resolver: Any = get_resolver()
    [(_, parameters)] = resolver.namespace_dict["api"][1].reverse_dict.getlist(name.partition(":")[2])[0][0]
    return reverse(name, kwargs=dict.fromkeys(parameters, "nobody"))


def ask(client: Client, method: str, name: str) -> Any:
    return client.generic(method, address(name), content_type="application/json")


def methods_of(route: Any) -> set[str]:
    """What the view answers to; drf's OPTIONS describes the view and is nobody's."""
    view = route.callback.cls
    return {method for method in METHODS if hasattr(view, method.lower())} - {"OPTIONS", "HEAD"}


def test_every_method_of_every_route_has_its_policy_and_no_policy_is_without_one() -> None:
    assert {name: methods_of(route) for name, route in zip(NAMES, ROUTES, strict=True)} == {
        name: set(policy) for name, policy in API.items()
    }


@pytest.mark.parametrize("role", list(Role))
def test_each_role_does_what_the_policy_says_and_nothing_else(
    role: Role, make_user: Callable[[Role], User], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("console.audit.refusals.MAX_ROWS_OF_ONE", 10_000)  # each is a row here
    client = Client(raise_request_exception=False)
    client.force_login(make_user(role), backend=BACKEND)
    for name in NAMES:
        for method in METHODS:
            before = last_seq()
            status = ask(client, method, name).status_code
            who = API[name].get("GET" if method == "HEAD" else method)
            if who is None:
                assert status in (403, 405), (name, method, status)
            elif role in ENOUGH[who]:
                assert status in (200, 400, 404), (name, method, status)
            else:
                assert status == 403, (name, method, status)
            refused = [(f"the-{role.value}", "access.refused", f"route:{name}")] if status == 403 else []
            assert entries_since(before) == refused, (name, method)


def test_a_management_key_does_what_an_operator_does(management_key: IssuedKey) -> None:
    headers = {"Authorization": f"Bearer {management_key.secret}"}
    client = Client(raise_request_exception=False, headers=headers)
    for name in set(NAMES) - {PAGE}:
        for method, who in API[name].items():
            before = last_seq()
            status = ask(client, method, name).status_code
            if who is Who.ADMIN:
                assert status == 403, (name, method, status)
                actor = f"key:{management_key.key.public_id}"
                assert entries_since(before) == [(actor, "access.refused", f"route:{name}")]
            else:
                assert status in (200, 400, 404), (name, method, status)
                assert entries_since(before) == []


@pytest.mark.parametrize("scopes", [[], ["chat"], list(endpoint_scopes())])
def test_a_key_for_models_manages_nothing(scopes: list[str], team: Team) -> None:
    secret = issue(actor=Actor.person("test"), name="program", team=team, scopes=scopes).secret
    client = Client(headers={"Authorization": f"Bearer {secret}"})
    for name in set(NAMES) - {PAGE}:
        for method in API[name]:
            answer = ask(client, method, name)
            assert (answer.status_code, error_of(answer)["code"]) == (401, "missing_scope"), (name, method)


def test_strangers_and_worn_out_keys_get_401(db: None, management_key: IssuedKey) -> None:
    secret = management_key.secret
    revoke(actor=Actor.person("test"), key=management_key.key)
    seq = last_seq()
    headers = ({}, {"Authorization": "Bearer nonsense"}, {"Authorization": f"Bearer {secret}"})
    for sent in headers:
        for name in set(NAMES) - {PAGE}:
            for method in API[name]:
                answer = ask(Client(headers=sent), method, name)
                assert answer.status_code == 401, (name, method)
                assert error_of(answer)["type"] == "authentication_error"
                assert answer["WWW-Authenticate"] == "Bearer"
    assert last_seq() == seq
    assert Client().get(address(PAGE)).status_code == 302


def test_a_session_changes_nothing_without_the_forms_token(make_user: Callable[[Role], User]) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(make_user(Role.ADMIN), backend=BACKEND)
    for name in set(NAMES):
        for method in set(API[name]) - {"GET"}:
            answer = ask(client, method, name)
            assert (answer.status_code, error_of(answer)["type"]) == (403, "permission_error"), name
    assert not Entry.objects.exclude(
        action__in=["access.refused", "user.created", "login.succeeded"]
    ).exists()


def test_a_disabled_person_is_a_stranger(make_user: Callable[[Role], User]) -> None:
    client, user = Client(), make_user(Role.ADMIN)
    client.force_login(user, backend=BACKEND)
    user.is_active = False
    user.save()
    assert caller(client)("GET", "keys").status_code == 401


def test_a_management_key_leaves_no_other_behind(program: Call, operator: Call) -> None:
    wish = {"name": "second", "scopes": ["management"]}
    assert program("POST", "keys", wish).status_code == 403
    plain = program("POST", "keys", {"name": "plain"}).json()["id"]  # type: ignore[attr-defined]
    assert program("PATCH", f"keys/{plain}", {"scopes": ["management"]}).status_code == 403
    assert operator("POST", "keys", wish).status_code == 201


def test_the_command_issues_a_management_key(db: None) -> None:
    out = StringIO()
    call_command("issue_key", "terraform", scope=["management"], stdout=out)
    headers = {"Authorization": f"Bearer {out.getvalue().strip()}"}
    assert Client(headers=headers).get("/api/v1/keys").status_code == 200
