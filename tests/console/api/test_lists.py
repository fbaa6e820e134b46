"""What the management API lists: filtered, page by page, quick over many rows; and its description."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.utils import timezone

from console.accounts.models import Team, User
from console.accounts.roles import Role
from console.audit.actor import Actor
from console.keys.actions import IssuedKey, issue, revoke
from console.keys.models import ApiKey
from console.usage.models import UsageRecord
from tests.catalog_rows import serve
from tests.console.api.conftest import Call, error_of
from tests.counting import MOST_OF_A_PAGE, counted

NUM_KEYS = 10_000
NUM_REQUESTS = 100_000


@pytest.fixture
def viewer(as_role: Callable[[Role], Call]) -> Call:
    return as_role(Role.VIEWER)


def row(key: ApiKey, number: int, **columns: Any) -> UsageRecord:
    certificate_status = {
        "request_id": f"r{number}",
        "owner": key.public_id,
        "key": key,
        "team": key.team,
        "model": "m",
        "revision": "m-1",
        "endpoint": "chat.completions",
        "transport": "rest",
        "outcome": "finished",
        "prompt_tokens": 10,
        "completion_tokens": 20,
        "created_at": timezone.now() - timedelta(seconds=number),
        "settled_at": timezone.now(),
    }
    return UsageRecord(**(certificate_status | columns))


def pages(call: Call, path: str) -> list[list[Any]]:
    """All pages of a list, from cursor to cursor."""
    found, cursor = [], ""
    while True:
        body: Any = call("GET", path + cursor).json()  # type: ignore[attr-defined]
        found.append(body["data"])
        if body["next"] is None:
            return found
        cursor = f"&cursor={body['next']}"


def test_keys_come_newest_first_page_by_page(viewer: Call, team: Team) -> None:
    for number in range(7):
        issue(actor=Actor.person("test"), name=f"key {number}", team=team)
    found = pages(viewer, "keys?limit=3")
    assert [[one["name"] for one in page] for page in found] == [
        ["key 6", "key 5", "key 4"],
        ["key 3", "key 2", "key 1"],
        ["key 0"],
    ]


def test_keys_are_found_by_name_and_state(viewer: Call, team: Team, issued: IssuedKey) -> None:
    revoke(actor=Actor.person("test"), key=issue(actor=Actor.person("test"), name="old", team=team).key)
    names = {
        "": {"program", "old"},
        "&state=active": {"program"},
        "&state=revoked": {"old"},
        "&words=OL": {"old"},
    }
    for query, expected in names.items():
        [page] = pages(viewer, f"keys?limit=50{query}")
        assert {one["name"] for one in page} == expected, query


def test_requests_are_filtered_and_paged(viewer: Call, issued: IssuedKey) -> None:
    rows = [row(issued.key, number, outcome=("finished", "failed")[number % 2]) for number in range(7)]
    UsageRecord.objects.bulk_create(rows)
    found = pages(viewer, "requests?limit=2&outcome=finished")
    assert [one["request_id"] for page in found for one in page] == ["r0", "r2", "r4", "r6"]
    assert viewer("GET", "requests/r3").json()["outcome"] == "failed"  # type: ignore[attr-defined]
    assert error_of(viewer("GET", "requests/none"))["code"] == "not_found"
    [page] = pages(viewer, "requests?limit=9&owner=program")
    assert len(page) == 7
    totals: Any = viewer("GET", "usage").json()  # type: ignore[attr-defined]
    assert (totals["num_requests"], totals["num_failed"], totals["prompt_tokens"]) == (7, 3, 70)


def test_people_teams_and_models_are_listed(viewer: Call, make_user: Callable[[Role], User]) -> None:
    make_user(Role.ADMIN)
    [people] = pages(viewer, "people?limit=9")
    assert [(one["username"], one["role"], one["teams"]) for one in people] == [
        ("the-viewer", "viewer", ["default"]),
        ("the-admin", "admin", ["default"]),
    ]
    assert "password" not in str(people)
    assert [one["name"] for one in pages(viewer, "teams?limit=9")[0]] == ["default"]
    serve("m", "m-1")
    assert [one["name"] for one in pages(viewer, "models?limit=9")[0]] == ["m"]


def test_a_process_without_an_engine_says_so(viewer: Call) -> None:
    assert viewer("GET", "engine").json() == {"is_here": False, "is_draining": False, "revisions": []}  # type: ignore[attr-defined]


def test_what_is_not_there_is_answered_in_the_same_shape(viewer: Call) -> None:
    for call in (viewer, lambda method, path: getattr(Client(), method.lower())(f"/api/v1/{path}")):
        for method in ("GET", "POST"):
            answer = call(method, "no/such/thing")
            assert (answer.status_code, error_of(answer)["code"]) == (404, "not_found")


def test_a_fault_of_ours_is_a_500_in_the_same_shape(viewer: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("console.api.views.audit.find_entries", lambda **wanted: 1 / 0)
    answer = viewer("GET", "audit")
    assert (answer.status_code, error_of(answer)["code"]) == (500, "internal_error")


def test_the_description_is_valid_and_has_no_warnings(viewer: Call) -> None:
    out = StringIO()
    call_command("spectacular", validate=True, fail_on_warn=True, stdout=out)
    assert "/api/v1/keys/{public_id}/revoke" in out.getvalue()
    schema: Any = viewer("GET", "openapi.json").json()  # type: ignore[attr-defined]
    schemes = schema["components"]["securitySchemes"]
    assert {one["type"] for one in schemes.values()} == {"http", "apiKey"}
    operations = [one for path in schema["paths"].values() for one in path.values()]
    assert len(operations) > 20 and all("403" in one["responses"] for one in operations)


def test_the_document_names_every_path(viewer: Call) -> None:
    document = (Path(__file__).parents[3] / "docs/management-api.md").read_text()
    shown = {
        part
        for line in re.findall(r"^\| (`.*?) \|", document, re.MULTILINE)
        for part in re.findall("`(.+?)`", line)
    }
    schema: Any = viewer("GET", "openapi.json").json()  # type: ignore[attr-defined]
    paths = {re.sub(r"\{public_id\}", "{id}", path.removeprefix("/api/v1")) for path in schema["paths"]}
    assert shown <= paths
    for path in paths - shown:
        verb = path.rpartition("/")[2]
        assert f".../{verb}" in document or path in document, path


def test_the_documentation_page_runs_our_own_files_alone(viewer: Call) -> None:
    page = viewer("GET", "docs/").content.decode()
    assert "http://" not in page and "https://" not in page
    assert "<style" not in page and "<script>" not in page


@pytest.mark.slow
def test_lists_cost_little_over_many_rows(viewer: Call, team: Team, issued: IssuedKey) -> None:
    ApiKey.objects.bulk_create(
        [
            ApiKey(public_id=f"k{n}", digest="", name=f"key {n}", team=team, created_by="a")
            for n in range(NUM_KEYS)
        ],
        batch_size=500,
    )
    rows = [row(issued.key, number) for number in range(NUM_REQUESTS)]
    UsageRecord.objects.bulk_create(rows, batch_size=500)
    key = ApiKey.objects.order_by("pk")[NUM_KEYS // 2].pk
    middle = viewer("GET", "requests?limit=200&min_seconds=0").json()["next"]  # type: ignore[attr-defined]
    paths = [
        "keys",
        f"keys?cursor={key}&limit=200",
        "keys?words=999",
        "requests?limit=200",
        f"requests?limit=200&cursor={middle}",
        "requests?owner=program&outcome=failed",
        "usage",
    ]
    for path in paths:
        with counted() as cost:
            assert viewer("GET", path).status_code == 200
        assert cost.is_within(MOST_OF_A_PAGE), (path, cost)
