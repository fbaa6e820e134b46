"""Models and revisions over the management API: the same acts as on the pages, the same audit rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from console.catalog.models import Deployment, Revision
from console.environment import environment
from console.jobs.models import Job
from tests.catalog_rows import make_revision, serve
from tests.console.api.conftest import Call, entries_since, error_of, last_seq
from tests.counting import MOST_OF_A_PAGE, counted

pytestmark = pytest.mark.django_db

FACTS = {"num_parameters": 10**8, "max_model_len": 8192, "kv_bytes_per_token": 23_040, "dtype": "bfloat16"}


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much of it on every machine."""
    monkeypatch.setattr(environment(), "memory_budget", 8 * 10**9)


@pytest.fixture(autouse=True)
def smol(db: None) -> Revision:
    serve("smol", "smol-0")
    return make_revision(
        "smol", "smol-1", folder="one", facts=FACTS, files={"a": {"sha256": "ab" * 32, "size": 7}}
    )


def told(answer: Any, status: int = 200) -> Any:
    assert answer.status_code == status, answer.content
    return answer.json()


def test_models_say_what_answers_and_what_is_loaded(operator: Call) -> None:
    Deployment.objects.filter(revision="smol-0").update(state="ready", memory_bytes=5)
    [one] = told(operator("GET", "models"))["data"]
    assert (one["name"], one["num_revisions"], one["num_bytes"], one["memory_bytes"]) == ("smol", 2, 7, 5)
    assert one["arms"] == [{"route": "smol", "revision": "smol-0", "share": 100}]
    assert one["deployments"] == [{"revision": "smol-0", "state": "ready"}]
    assert told(operator("GET", "models/smol")) == one
    assert operator("GET", "models/nobody").status_code == 404


def test_revisions_are_listed_page_by_page_and_narrowed(operator: Call) -> None:
    make_revision("other", "other-1")
    first = told(operator("GET", "revisions?limit=2"))
    second = told(operator("GET", f"revisions?limit=2&cursor={first['next']}"))
    assert [one["id"] for one in first["data"] + second["data"]] == ["other-1", "smol-1", "smol-0"]
    assert second["next"] is None
    assert [one["id"] for one in told(operator("GET", "revisions?model=other"))["data"]] == ["other-1"]
    Deployment.objects.filter(revision="smol-1").update(state="failed", reason="why")
    [one] = told(operator("GET", "revisions?state=failed"))["data"]
    assert one["deployment"]["reason"] == "why"


def test_a_revision_tells_its_dtype_and_what_that_was_chosen_by(operator: Call) -> None:
    before = told(operator("GET", "revisions/smol-0"))["deployment"]
    assert (before["dtype"], before["why_dtype"]) == ("", "")
    card = {"dtype": "float32", "why_dtype": "measured steps of 1 and 8 rows"}
    Deployment.objects.filter(revision="smol-0").update(card=card)
    after = told(operator("GET", "revisions/smol-0"))["deployment"]
    assert (after["dtype"], after["why_dtype"]) == ("float32", "measured steps of 1 and 8 rows")
    assert error_of(operator("GET", "revisions?cursor=nonsense"))["param"] == "cursor"


def test_a_revision_comes_with_files_shares_and_certificate(operator: Call) -> None:
    one = told(operator("GET", "revisions/smol-1"))
    assert one["files"] == {"a": {"sha256": "ab" * 32, "size": 7}} and one["facts"] == FACTS
    assert one["certificate"].keys() == {"kind", "reason", "figures", "thresholds", "measured_at"}
    assert told(operator("GET", "revisions/smol-0"))["shares"] == [{"route": "smol", "share": 100}]


def test_a_program_loads_keeps_forces_and_unloads(program: Call, management_key: Any) -> None:
    before, actor = last_seq(), f"key:{management_key.key.public_id}"
    assert told(program("POST", "revisions/smol-1/load"))["deployment"]["wanted"] == "loaded"
    keeping = {"is_pinned": True, "idle_seconds": 60}
    kept = told(program("PUT", "revisions/smol-1/keeping", keeping))["deployment"]
    assert (kept["is_pinned"], kept["idle_seconds"]) == (True, 60)
    assert told(program("PUT", "revisions/smol-1/force", {"is_forced": True}))["deployment"]["is_forced"]
    assert not told(program("PUT", "revisions/smol-1/force", {"is_forced": False}))["deployment"]["is_forced"]
    assert told(program("POST", "revisions/smol-1/unload"))["deployment"]["wanted"] == "unloaded"
    acts = ("load", "keep", "force", "release", "unload")
    assert entries_since(before) == [(actor, f"deployment.{act}", "smol-1") for act in acts]


def test_what_cannot_be_done_now_is_a_conflict_that_says_why(operator: Call) -> None:
    acts = {"unload": "deployment_refused", "delete-files": "files_in_use", "certify": "certify_refused"}
    for act, code in acts.items():
        answer = operator("POST", f"revisions/smol-0/{act}")
        assert (answer.status_code, error_of(answer)["code"]) == (409, code)
        assert error_of(answer)["message"]


def test_settings_make_a_revision_and_bad_ones_name_their_field(operator: Call) -> None:
    made = told(operator("POST", "revisions/smol-1/settings", {"engine": {"num_blocks": 600}}), 201)
    assert (made["parent"], made["engine"]) == ("smol-1", {"num_blocks": 600})
    for engine, param in (
        ({"num_blocks": 3}, "engine.num_blocks"),
        ({"max_model_len": 9000}, "engine.max_model_len"),
        ({"num_blocks": "many"}, "engine.num_blocks"),
        ({"colour": "blue"}, "engine.colour"),
        ({"num_blocks": 10**6}, "engine"),
    ):
        answer = operator("POST", "revisions/smol-1/settings", {"engine": engine})
        assert (answer.status_code, error_of(answer)["param"]) == (400, param), answer.content
    assert Revision.objects.count() == 3


def test_an_import_and_a_quantization_are_jobs(operator: Call, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    body = {"source": "folder", "location": str(tmp_path), "name": "mine", "engine": {"batching": False}}
    job = told(operator("POST", "imports", body), 202)
    assert (job["kind"], job["subject"], job["state"]) == ("import", "mine", "queued")
    assert Job.objects.get().arguments["engine"] == {"batching": False}
    assert told(operator("POST", "revisions/smol-1/quantize"), 202)["kind"] == "quantize"
    answer = operator("POST", "imports", body | {"location": "/nowhere"})
    assert (answer.status_code, error_of(answer)["param"]) == (400, "location")


@pytest.mark.slow
def test_the_lists_cost_little_over_ten_thousand_revisions(operator: Call, smol: Revision) -> None:
    made = Revision.objects.bulk_create(
        (
            Revision(id=f"smol-x{n}", model=smol.model, folder=f"m/{n}", source="t", files={}, facts=FACTS)
            for n in range(10_000)
        ),
        batch_size=1000,
    )
    Deployment.objects.bulk_create((Deployment(revision=one) for one in made), batch_size=2000)
    for path in ("models", "revisions", "revisions?model=smol"):
        with counted() as cost:
            told(operator("GET", path))
        assert cost.is_within(MOST_OF_A_PAGE), (path, cost)
