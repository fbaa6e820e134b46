"""Every change that the management API makes: done once, by one action, with exactly one audit entry."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from console.accounts.models import User
from console.accounts.roles import Role
from console.audit.actor import Actor
from console.audit.models import Entry
from console.audit.verify import verify
from console.keys.actions import IssuedKey
from console.keys.models import ApiKey
from console.keys.token import parse
from inference.protocol.stats import Stats
from monitoring.live import BOARD, InFlight, Progress
from tests.console.api.conftest import Call, entries_since, error_of, last_seq

HOSTILE = "<script>alert(1)</script>"


def test_issuing_a_key_answers_its_secret_once(operator: Call) -> None:
    seq = last_seq()
    answer = operator("POST", "keys", {"name": HOSTILE, "scopes": ["chat"], "models": ["m"]})
    issued: Any = answer.json()  # type: ignore[attr-defined]
    assert answer.status_code == 201 and "no-store" in answer["Cache-Control"]
    token = parse(issued["secret"])
    assert token is not None and token.public_id == issued["id"] == ApiKey.objects.get().public_id
    assert (issued["name"], issued["scopes"], issued["models"], issued["team"]) == (
        HOSTILE,
        ["chat"],
        ["m"],
        "default",
    )
    assert entries_since(seq) == [("the-operator", "key.issued", f"key:{issued['id']}")]
    for path in ("keys", f"keys/{issued['id']}", "audit"):
        later = operator("GET", path).content.decode()
        assert issued["secret"] not in later and ApiKey.objects.get().digest not in later


def test_a_key_is_issued_with_its_limits(operator: Call) -> None:
    limits = {"budget_tokens": 100, "requests_per_minute": 5}
    seq = last_seq()
    issued: Any = operator("POST", "keys", {"name": "a", "limits": limits}).json()  # type: ignore[attr-defined]
    assert issued["limits"] == {
        **limits,
        "tokens_per_minute": None,
        "used_tokens": 0,
        "reserved_tokens": 0,
    }
    assert [action for _, action, _ in entries_since(seq)] == ["key.issued", "limit.set"]


def changes(key: IssuedKey) -> list[tuple[str, str, Any, str, str]]:
    """(method, path, body, action, target) of everything that an operator may change about a key."""
    path, target = f"keys/{key.key.public_id}", f"key:{key.key.public_id}"
    return [
        ("PATCH", path, {"name": "renamed"}, "key.changed", target),
        ("PATCH", path, {"expires_at": "2999-01-01T00:00:00Z", "models": ["a"]}, "key.changed", target),
        ("PUT", f"{path}/limits", {"tokens_per_minute": 9}, "limit.set", target),
        ("POST", f"{path}/revoke", None, "key.revoked", target),
    ]


def test_each_change_of_a_key_leaves_one_entry_by_whom_it_was_made(
    operator: Call, program: Call, management_key: IssuedKey, issued: IssuedKey, team: Any
) -> None:
    from console.keys.actions import issue

    for call, actor, key in (
        (operator, "the-operator", issued),
        (
            program,
            f"key:{management_key.key.public_id}",
            issue(actor=Actor.person("test"), name="other", team=team),
        ),
    ):
        for method, path, body, action, target in changes(key):
            seq = last_seq()
            answer = call(method, path, body)
            assert answer.status_code == 200, (path, answer.content)
            assert entries_since(seq) == [(actor, action, target)]
            assert call(method, path, body).status_code in (200, 400)
            assert entries_since(seq) == [(actor, action, target)], "done twice, written once"
        key.key.refresh_from_db()
        assert (key.key.name, key.key.allowed_models) == ("renamed", ["a"])
        assert key.key.revoked_at is not None
    assert verify().is_intact


def test_each_change_of_a_person_leaves_one_entry(admin: Call) -> None:
    def last(answer: Any, seq: int) -> Any:
        [entry] = entries_since(seq)
        return answer.status_code, entry

    seq = last_seq()
    made: Any = admin("POST", "people", {"username": "mara", "role": "viewer"})
    assert last(made, seq) == (201, ("the-admin", "user.created", "user:mara"))
    mara = User.objects.get(username="mara")
    assert mara.check_password(made.json()["password"]) and "no-store" in made["Cache-Control"]
    steps = [
        ("PUT", "people/mara/role", {"role": "operator"}, 200, "user.role_changed"),
        ("PUT", "people/mara/active", {"is_active": False}, 200, "user.disabled"),
        ("PUT", "people/mara/active", {"is_active": True}, 200, "user.enabled"),
        ("POST", "people/mara/password", None, 200, "user.password_reset"),
    ]
    for method, path, body, status, action in steps:
        seq = last_seq()
        answer: Any = admin(method, path, body)
        assert last(answer, seq) == (status, ("the-admin", action, "user:mara")), path
    mara.refresh_from_db()
    assert mara.role == Role.OPERATOR and mara.is_active and mara.check_password(answer.json()["password"])
    passwords = (made.json()["password"], answer.json()["password"])
    assert not any(
        one in detail for one in passwords for detail in Entry.objects.values_list("detail", flat=True)
    )


def test_the_only_admin_stays_one(admin: Call) -> None:
    for path, body in (("role", {"role": "viewer"}), ("active", {"is_active": False})):
        seq = last_seq()
        answer = admin("PUT", f"people/the-admin/{path}", body)
        assert (answer.status_code, error_of(answer)["code"]) == (409, "last_admin")
        assert entries_since(seq) == []


@pytest.mark.django_db(transaction=True)
def test_a_request_in_flight_is_seen_and_cancelled(operator: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[str] = []
    request = InFlight(
        request_id="req_1",
        choice_ids=("req_1-0",),
        owner="abc",
        owner_name="program",
        model="m",
        revision="m-1",
        transport="sse",
        prompt_tokens=7,
        arrived=0.0,
        progress=lambda: Progress(output_tokens=3, num_ended=0),
        abort=lambda: ended.append("req_1"),
    )
    monkeypatch.setattr("console.api.views.engine.current_stats", Stats)
    BOARD.enter(request)
    try:
        [seen] = operator("GET", "in-flight").json()["data"]  # type: ignore[attr-defined]
        assert (seen["request_id"], seen["state"], seen["output_tokens"]) == ("req_1", "preempted", 3)
        seq = last_seq()
        assert operator("POST", "in-flight/req_1/cancel").status_code == 202
        assert entries_since(seq) == [("the-operator", "request.cancelled", "request:req_1")]
        assert ended == ["req_1"]
    finally:
        BOARD.leave(request)
    answer = operator("POST", "in-flight/req_1/cancel")
    assert (answer.status_code, error_of(answer)["code"]) == (404, "not_in_flight")


WRONG: list[tuple[str, str, Any, str | None, str]] = [
    ("POST", "keys", {"name": "a", "colour": "red"}, "colour", "unknown_field"),
    ("POST", "keys", {"name": "a", "limits": {"budget": 1}}, "limits.budget", "unknown_field"),
    ("POST", "keys", {}, "name", "required"),
    ("POST", "keys", {"name": "a", "scopes": ["fly"]}, "scopes.0", "invalid_choice"),
    ("POST", "keys", {"name": "a", "team": "nobody"}, "team", "does_not_exist"),
    ("POST", "keys", {"name": "a", "expires_at": "2001-01-01T00:00:00Z"}, None, "invalid_value"),
    ("POST", "keys", {"name": "a", "limits": {"budget_tokens": 0}}, "limits.budget_tokens", "min_value"),
    ("POST", "keys", ["a"], None, "invalid"),
    ("POST", "people", {"username": "a b", "role": "viewer"}, "username", "invalid"),
    ("POST", "people", {"username": "the-admin", "role": "viewer"}, "username", "name_taken"),
    ("POST", "people", {"username": "eve", "role": "root"}, "role", "invalid_choice"),
    (
        "PUT",
        "people/the-admin/role",
        {"role": "admin", "is_superuser": True},
        "is_superuser",
        "unknown_field",
    ),
    ("GET", "keys?colour=red", None, "colour", "unknown_field"),
    ("GET", "keys?limit=201", None, "limit", "max_value"),
    ("GET", "keys?cursor=x", None, "cursor", "invalid_cursor"),
    ("GET", "requests?cursor=x", None, "cursor", "invalid_cursor"),
    ("GET", "requests?outcome=great", None, "outcome", "invalid_choice"),
    ("GET", "audit?limit=0", None, "limit", "min_value"),
    ("GET", "engine?x=1", None, "x", "unknown_field"),
]


@pytest.mark.parametrize(("method", "path", "body", "param", "code"), WRONG)
def test_what_is_wrong_is_refused_by_name_and_changes_nothing(
    method: str, path: str, body: Any, param: str | None, code: str, admin: Call
) -> None:
    seq, num_keys = last_seq(), ApiKey.objects.count()
    answer = admin(method, path, body)
    error = error_of(answer)
    assert (answer.status_code, error["param"], error["code"]) == (400, param, code)
    assert error["type"] == "invalid_request_error"
    assert (entries_since(seq), ApiKey.objects.count()) == ([], num_keys)


def test_bodies_that_are_no_json_are_refused(admin: Call, as_role: Callable[[Role], Call]) -> None:
    answer = admin("POST", "keys", "{")
    assert (answer.status_code, error_of(answer)["code"]) == (400, "parse_error")


def test_a_revoked_key_is_not_changed(operator: Call, issued: IssuedKey) -> None:
    path = f"keys/{issued.key.public_id}"
    operator("POST", f"{path}/revoke")
    assert error_of(operator("PATCH", path, {"name": "x"}))["code"] == "invalid_value"


def test_details_of_entries_are_objects(admin: Call) -> None:
    admin("POST", "people", {"username": "mara", "role": "viewer"})
    [entry] = admin("GET", "audit?action=user.created&target=user:mara").json()["data"]  # type: ignore[attr-defined]
    kept = Entry.objects.get(seq=entry["seq"])
    assert entry["detail"] == json.loads(kept.detail) and entry["hash"] == kept.hash
