"""Routes and rollouts over the management API: the same actions as the pages', with codes for programs."""

from __future__ import annotations

import pytest
from django.utils import timezone

from console.accounts.roles import Role
from console.catalog.models import Deployment
from console.rollouts.models import Rollout
from console.rollouts.tick import tick
from tests.catalog_rows import serve
from tests.console.api.conftest import Call, entries_since, error_of, last_seq
from tests.console.rollouts.rows import answers, furnish, make_quantized, observe

pytestmark = pytest.mark.django_db

STEPS = [{"weight": 10, "pause_seconds": 60}, {"weight": 100}]


@pytest.fixture(autouse=True)
def _rows(db: None) -> None:
    furnish()


def started(call: Call, **fields: object) -> dict[str, object]:
    answer = call("POST", "rollouts", {"route": "stub", "candidate": "stub-2", "steps": STEPS} | fields)
    assert answer.status_code == 201, answer.content
    observe("stub-2", Deployment.State.READY)
    tick(timezone.now())
    return answer.json()  # type: ignore[attr-defined, no-any-return]


def test_a_program_rolls_out_promotes_and_takes_back(program: Call) -> None:
    made = started(program)
    assert (made["state"], made["step"], made["shares"]) == ("preparing", 0, {"stub-1": 100, "stub-2": 0})
    path = f"rollouts/{made['id']}"
    now = program("GET", path).json()  # type: ignore[attr-defined]
    assert (now["state"], now["step"]) == ("stepping", 1) and 0 < now["seconds_left"] <= 60
    assert [arm["revision"] for arm in now["arms"]] == ["stub-1", "stub-2"]
    assert now["undo"]["is_instant"] is True
    assert program("POST", f"{path}/advance", {"version": now["version"]}).status_code == 200
    done = program("POST", f"{path}/promote").json()  # type: ignore[attr-defined]
    assert (done["state"], answers()) == ("promoted", {"stub-2": 100})
    seq = last_seq()
    assert program("POST", f"{path}/undo", {"reason": "too long"}).json()["state"] == "undone"  # type: ignore[attr-defined]
    assert [action for _, action, _ in entries_since(seq)] == ["rollout.undo"]


@pytest.mark.parametrize(
    ("action", "body", "code"),
    [
        ("abort", {"version": 0}, "changed_meanwhile"),
        ("resume", {}, "not_possible"),
        ("promote", {}, "not_last_step"),
        ("undo", {}, "not_possible"),
        ("release", {}, "nothing_kept"),
    ],
)
def test_what_is_refused_has_a_code(operator: Call, action: str, body: dict[str, object], code: str) -> None:
    made = started(operator)
    seq = last_seq()
    answer = operator("POST", f"rollouts/{made['id']}/{action}", body)
    assert (answer.status_code, error_of(answer)["code"]) == (409, code)
    assert entries_since(seq) == []


def test_a_second_rollout_and_an_uncertified_promotion_are_refused(operator: Call) -> None:
    make_quantized()
    body = {"route": "stub", "candidate": "stub-int8", "steps": [{"weight": 10}]}
    made = operator("POST", "rollouts", body).json()  # type: ignore[attr-defined]
    answer = operator("POST", "rollouts", body | {"candidate": "stub-2"})
    assert (answer.status_code, error_of(answer)["code"]) == (409, "rollout_active")
    observe("stub-int8", Deployment.State.READY)
    tick(timezone.now())
    answer = operator("POST", f"rollouts/{made['id']}/promote", {"force": True})
    assert (answer.status_code, error_of(answer)["code"]) == (409, "not_certified")
    answer = operator("PUT", "routes/stub", {"shares": {"stub-int8": 100}})
    assert (answer.status_code, error_of(answer)["code"]) == (409, "rollout_active")


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": []},
        {"steps": [{"weight": 50}, {"weight": 10}]},
        {"steps": [{"weight": 101}]},
        {"candidate": "nobody"},
        {"candidate": "stub-1"},
        {"speed": 3},
    ],
)
def test_what_cannot_be_is_a_400(operator: Call, wrong: dict[str, object]) -> None:
    body = {"route": "stub", "candidate": "stub-2", "steps": STEPS} | wrong
    assert operator("POST", "rollouts", body).status_code == 400
    assert not Rollout.objects.exists()


def test_routes_are_made_switched_and_taken_out_of_service(operator: Call) -> None:
    made = operator("POST", "routes", {"name": "alias", "shares": {"stub-1": 100}})
    assert (made.status_code, made.json()["shares"]) == (201, {"stub-1": 100})  # type: ignore[attr-defined]
    again = operator("POST", "routes", {"name": "alias", "shares": {"stub-2": 100}})
    assert (again.status_code, error_of(again)["code"]) == (409, "route_exists")
    version = made.json()["version"]  # type: ignore[attr-defined]
    switched = operator("PUT", "routes/alias", {"shares": {"stub-2": 100}, "version": version}).json()  # type: ignore[attr-defined]
    assert (switched["shares"], switched["kept_for_undo"]) == ({"stub-2": 100}, ["stub-1"])
    late = operator("PUT", "routes/alias", {"shares": {"stub-1": 100}, "version": version})
    assert (late.status_code, error_of(late)["code"]) == (409, "changed_meanwhile")
    assert operator("PUT", "routes/alias", {"shares": {"stub-1": 30}}).status_code == 400
    assert operator("DELETE", "routes/alias").json()["shares"] == {}  # type: ignore[attr-defined]
    assert answers("alias") == {}
    names = [one["name"] for one in operator("GET", "routes").json()["data"]]  # type: ignore[attr-defined]
    assert names == ["stub", "alias"]


def test_the_list_is_narrowed_and_read_page_by_page(operator: Call) -> None:
    for shares in ({"stub-2": 100}, {"stub-1": 100}, {"stub-2": 100}):
        operator("PUT", "routes/stub", {"shares": shares})
    first = operator("GET", "rollouts?route=stub&state=promoted&limit=2").json()  # type: ignore[attr-defined]
    rest = operator("GET", f"rollouts?limit=2&cursor={first['next']}").json()  # type: ignore[attr-defined]
    assert (len(first["data"]), len(rest["data"]), rest["next"]) == (2, 1, None)
    assert operator("GET", "rollouts?route=other").json()["data"] == []  # type: ignore[attr-defined]


def test_a_viewer_reads_and_changes_nothing(as_role: object) -> None:
    viewer: Call = as_role(Role.VIEWER)  # type: ignore[operator]
    assert viewer("GET", "rollouts").status_code == viewer("GET", "routes/stub").status_code == 200
    assert viewer("PUT", "routes/stub", {"shares": {"stub-2": 100}}).status_code == 403
    assert (
        viewer("POST", "rollouts", {"route": "stub", "candidate": "stub-2", "steps": STEPS}).status_code
        == 403
    )


def test_a_candidate_of_another_model_must_be_asked_for_by_name(program: Call) -> None:
    serve("other", "other-1")
    body = {"route": "stub", "candidate": "other-1", "steps": STEPS}
    refused = program("POST", "rollouts", body)
    assert refused.status_code == 400
    assert "another model" in error_of(refused)["message"]
    assert not Rollout.objects.exists()
    assert program("POST", "rollouts", body | {"another_model": True}).status_code == 201
