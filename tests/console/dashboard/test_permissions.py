"""Every page, as every role and as a stranger: what the policy says is what happens."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import get_resolver, reverse

from console.accounts.roles import Role
from console.audit.actor import Actor
from console.audit.models import Entry
from console.dashboard import navigation
from console.policy import HTTP, Who
from tests.console.dashboard.conftest import SignedIn

ENOUGH = {
    Who.STAFF: {Role.VIEWER, Role.OPERATOR, Role.ADMIN},
    Who.OPERATOR: {Role.OPERATOR, Role.ADMIN},
    Who.ADMIN: {Role.ADMIN},
}
PEOPLES = sorted(route for route, who in HTTP.items() if who in ENOUGH)


def address(route: str) -> str:
    """Some URL of the route: ids that do not exist suffice, since the policy is asked first."""
    namespace, _, name = route.rpartition(":")
    resolver: Any = get_resolver()
    if namespace:
        resolver = resolver.namespace_dict[namespace][1]
    [(_, parameters)] = resolver.reverse_dict.getlist(name)[0][0]
    return reverse(route, kwargs=dict.fromkeys(parameters, 999999))


@pytest.mark.parametrize("route", PEOPLES)
def test_strangers_are_led_to_the_sign_in_page(route: str, db: None) -> None:
    for client in (Client().get, Client().post):
        answer = client(address(route))
        assert answer.status_code == 302
        assert answer["Location"].startswith(reverse("account_login"))


@pytest.mark.parametrize("role", list(Role))
def test_each_role_reaches_its_routes_and_no_others(
    role: Role, signed_in: SignedIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("console.audit.refusals.MAX_ROWS_OF_ONE", 10_000)  # each is a row here
    client = signed_in(role)
    client.raise_request_exception = False
    for route in PEOPLES:
        refused = Entry.objects.filter(action="access.refused", target=f"route:{route}")
        for method in (client.get, client.post):
            status = method(address(route)).status_code
            if role in ENOUGH[HTTP[route]]:
                assert status not in (403, 500), (route, status)
            else:
                assert status == 403, (route, status)
        assert refused.count() == (0 if role in ENOUGH[HTTP[route]] else 2), route


def test_a_refusal_says_who_tried_what(signed_in: SignedIn) -> None:
    signed_in(Role.VIEWER).post(reverse("dashboard:operator_create"), {"username": "eve", "role": "admin"})
    entry = Entry.objects.get(action="access.refused")
    assert (entry.actor, entry.ip) == ("the-viewer", "127.0.0.1")
    assert '"method":"POST"' in entry.detail


def test_a_disabled_person_is_a_stranger_at_the_next_request(signed_in: SignedIn) -> None:
    from console.accounts.actions import set_active

    client = signed_in(Role.VIEWER)
    assert client.get("/").status_code == 200
    set_active(actor=Actor.person("test"), username="the-viewer", is_active=False)
    assert client.get("/").status_code == 302


def test_a_fragment_without_a_session_says_so_and_leaves_the_page(db: None) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": "http://testserver/operators/?page=2"}
    answer = Client(headers=headers).get(reverse("dashboard:engine_pill"))
    assert (answer.status_code, answer["X-Session-Ended"], answer.content) == (204, "1", b"")


def test_every_page_and_fragment_names_the_run_of_the_server(signed_in: SignedIn) -> None:
    assert "X-Server-Run" not in Client().get(reverse("account_login"))
    client = signed_in(Role.VIEWER)
    for route in ("dashboard:home", "dashboard:home_figures", "dashboard:engine_pill", "dashboard:live_now"):
        run, started, lost, person = client.get(reverse(route))["X-Server-Run"].split()
        assert run and int(started) > 0 and lost == "0"
        assert person == client.session["_auth_user_id"]


def test_the_rail_shows_what_a_role_may_enter(signed_in: SignedIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HTTP, "dashboard:operators", Who.ADMIN)
    admin, viewer = signed_in(Role.ADMIN).get("/"), signed_in(Role.VIEWER).get("/")
    assert b'href="/operators/"' in admin.content.partition(b"<main")[0]
    assert b'href="/operators/"' not in viewer.content.partition(b"<main")[0]
    assert {room.route for section in navigation.SECTIONS for room in section.pages} >= {"dashboard:home"}
