"""What operators do on the models' pages: it leaves an audit row or says why not; nothing typed is lost."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from django.test import Client

from console.accounts.roles import Role
from console.audit.actor import Actor
from console.audit.models import Entry
from console.catalog.actions import spec
from console.catalog.models import Deployment, Revision
from console.catalog.routes import set_shares
from console.dashboard.forms.catalog import suggested_name
from console.environment import environment
from console.jobs.models import Job
from tests.catalog_rows import make_revision, serve
from tests.console.dashboard.conftest import SignedIn

pytestmark = pytest.mark.django_db

FACTS = {
    "num_parameters": 134_515_008,
    "weight_bytes": 269_030_016,
    "dtype": "bfloat16",
    "max_model_len": 8192,
    "kv_bytes_per_token": 23_040,
}
KEPT = {"idle_seconds": ""}


@pytest.fixture
def operator(signed_in: SignedIn) -> Client:
    return signed_in(Role.OPERATOR)


@pytest.fixture
def revision(db: None) -> Revision:
    serve("smol", "smol-0")
    return make_revision("smol", "smol-1", facts=FACTS)


@pytest.fixture(autouse=True)
def memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much of it on every machine."""
    monkeypatch.setattr(environment(), "memory_budget", 8 * 10**9)


def last_entry() -> tuple[str, str, str]:
    entry = Entry.objects.order_by("-seq")[0]
    return entry.actor, entry.action, entry.target


def said(answer: Any) -> str:
    return " ".join(str(message) for message in answer.context["messages"])


def deployment(revision: str = "smol-1") -> Deployment:
    return Deployment.objects.get(revision=revision)


@pytest.mark.usefixtures("revision")
def test_a_revision_is_loaded_kept_forced_released_and_unloaded(operator: Client) -> None:
    path = "/models/smol/smol-1"
    assert operator.post(f"{path}/load")["Location"] == f"{path}/"
    assert deployment().wanted == "loaded"
    assert last_entry() == ("the-operator", "deployment.load", "smol-1")
    operator.post(f"{path}/keep", {"is_pinned": "on", "idle_seconds": "600"})
    assert (deployment().is_pinned, deployment().idle_seconds) == (True, 600)
    operator.post(f"{path}/force")
    assert deployment().is_forced
    for page in ("/models/", "/models/smol/", f"{path}/"):
        assert "model_not_served" in operator.get(page).content.decode()
    operator.post("/models/release")
    assert not deployment().is_forced
    operator.post(f"{path}/unload")
    assert deployment().wanted == "unloaded"


@pytest.mark.usefixtures("revision")
def test_what_is_refused_is_said_on_the_page_and_changes_nothing(operator: Client) -> None:
    before = Entry.objects.count()
    answer = operator.post("/models/smol/smol-0/unload", follow=True)
    assert "route smol" in said(answer) and deployment("smol-0").wanted == "loaded"
    answer = operator.post("/models/smol/smol-0/delete", follow=True)
    assert "route smol" in said(answer)
    assert Entry.objects.count() == before


@pytest.mark.usefixtures("revision")
def test_an_impossible_idle_time_stands_beside_its_field(operator: Client) -> None:
    answer = operator.post("/models/smol/smol-1/keep", {"idle_seconds": "-5"})
    assert answer.status_code == 422
    assert answer.context["keeping_form"].errors.keys() == {"idle_seconds"}


@pytest.mark.usefixtures("revision")
def test_what_cannot_be_done_says_why_before_anybody_tries(operator: Client) -> None:
    page = " ".join(operator.get("/models/smol/smol-0/").content.decode().split())
    assert "smol sends it 100 % of its requests." in page
    assert "It is part of the route smol." in page
    assert "It needs no certificate: its numbers are those of an original." in page
    assert "revision_unload" not in page and "/models/smol/smol-0/unload" not in page


@pytest.mark.usefixtures("revision")
def test_forcing_says_beforehand_which_names_it_takes_away(operator: Client) -> None:
    serve("other", "other-1")
    page = operator.get("/models/smol/smol-1/").content.decode()
    assert "other, smol" in page
    assert (
        "have other revisions, in whole or in part: other."
        in operator.get("/models/smol/smol-0/").content.decode()
    )


@pytest.mark.usefixtures("revision")
def test_settings_make_a_revision_of_the_same_files_with_this_one_as_parent(operator: Client) -> None:
    answer = operator.post(
        "/models/smol/smol-1/settings",
        {"num_blocks": "600", "batching": "on", "dtype": "float32", "is_pinned": "on", **KEPT},
    )
    made = Revision.objects.get(parent="smol-1")
    assert answer["Location"] == f"/models/smol/{made.pk}/"
    assert made.engine == {"num_blocks": 600, "batching": True, "dtype": "float32"}
    assert (made.folder, made.files, made.facts) == ("smol", {}, FACTS)
    assert deployment(made.pk).is_pinned and deployment(made.pk).wanted == "unloaded"


@pytest.mark.usefixtures("revision")
def test_guesses_pool_and_invariance_are_settings_too(operator: Client) -> None:
    form = {"num_draft_tokens": "4", "batch_invariant": "off", "kv_dtype": "auto"}
    operator.post("/models/smol/smol-1/settings", {**form, **KEPT})
    made = Revision.objects.get(parent="smol-1")
    assert made.engine == {"num_draft_tokens": 4, "batch_invariant": False, "kv_dtype": "auto"}
    assert spec(made).engine.num_draft_tokens == 4


@pytest.mark.usefixtures("revision")
@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"device": "cuda"}, "device"),
        ({"num_draft_tokens": "17"}, "num_draft_tokens"),
        ({"num_draft_tokens": "4", "batch_invariant": "on"}, "num_draft_tokens"),
        ({"max_model_len": "9000"}, "max_model_len"),
        ({"num_blocks": "3"}, "num_blocks"),
        ({"num_blocks": "0"}, "num_blocks"),
        ({"num_blocks": "many"}, "num_blocks"),
        ({"attention": "nonsense"}, "attention"),
        ({"num_blocks": "9999999"}, "__all__"),
        ({}, "__all__"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_their_field_and_kept_as_typed(
    operator: Client, form: dict[str, str], field: str
) -> None:
    answer = operator.post("/models/smol/smol-1/settings", {"max_num_seqs": "", **form, **KEPT})
    assert answer.status_code == 422
    assert answer.context["form"].errors.keys() == {field}
    assert Revision.objects.count() == 2
    for value in form.values():
        assert value in answer.content.decode()


def test_a_revision_whose_installation_quantizes_may_say_no(operator: Client) -> None:
    make_revision("smol", "smol-1", facts=FACTS, engine={"quantization": "int8", "block_size": 32})
    operator.post("/models/smol/smol-1/settings", {"quantization": "no", **KEPT})
    assert Revision.objects.get(parent="smol-1").engine == {"quantization": None, "block_size": 32}


@pytest.mark.usefixtures("revision")
def test_advice_follows_what_is_typed_before_anything_is_saved(operator: Client) -> None:
    answer = operator.post("/models/smol/smol-1/advice", {"num_blocks": "512", "dtype": "float32"})
    text = answer.content.decode()
    assert "8,192 tokens" in text and "2 chats" in text and text.count("hx-swap-oob") == 15
    text = operator.post("/models/smol/smol-1/advice", {"num_blocks": "nonsense"}).content.decode()
    assert text.count("hx-swap-oob") == 15
    assert Revision.objects.count() == 2


@pytest.mark.usefixtures("revision")
def test_quantizing_and_certifying_lead_to_their_jobs_and_say_what_is_refused(operator: Client) -> None:
    answer = operator.post("/models/smol/smol-1/quantize")
    job = Job.objects.get(kind="quantize")
    assert answer["Location"] == f"/jobs/{job.pk}/" and job.subject == "smol-1"
    assert job.pk in said(operator.post("/models/smol/smol-1/quantize", follow=True))  # at work already
    assert "no certificate" in said(operator.post("/models/smol/smol-1/certify", follow=True))
    parent = Revision.objects.get(pk="smol-1")
    other = {"model.safetensors": {"sha256": "cd" * 32, "size": 1}}
    make_revision("smol", "smol-2", parent=parent, files=other, facts={"quantization": "int8"})
    assert "/jobs/" in operator.post("/models/smol/smol-2/certify")["Location"]
    assert "quantized already" in said(operator.post("/models/smol/smol-2/quantize", follow=True))


def folder(tmp_path: Path) -> Path:
    tmp_path.joinpath("My Model").mkdir()
    (tmp_path / "My Model" / "config.json").write_text("{}")
    return tmp_path / "My Model"


def test_an_import_becomes_a_job_and_its_page_is_shown(operator: Client, tmp_path: Path) -> None:
    location = str(folder(tmp_path))
    answer = operator.post("/models/import", {"source": "folder", "location": location, "quantize": "int8"})
    job = Job.objects.get()
    assert answer["Location"] == f"/jobs/{job.pk}/"
    assert (job.kind, job.subject, job.actor) == ("import", "my-model", "the-operator")
    assert job.arguments["location"] == location and job.arguments["quantize"] == "int8"
    assert "my-model" in operator.get("/models/").content.decode()


@pytest.mark.parametrize(
    ("form", "field"),
    [
        ({"source": "folder", "location": "/nowhere/at/all", "name": "x"}, "location"),
        ({"source": "folder", "location": "relative", "name": "x"}, "location"),
        ({"source": "folder", "location": ""}, "location"),
        ({"source": "hub", "location": "no-owner", "name": "x"}, "location"),
        ({"source": "hub", "location": "a/b", "commit": "..", "name": "x"}, "commit"),
        ({"source": "hub", "location": "a/b", "name": "Not A Name"}, "name"),
        ({"source": "ftp", "location": "a/b", "name": "x"}, "source"),
        ({"source": "hub", "location": "a/b", "name": "x", "quantize": "int3"}, "quantize"),
    ],
)
def test_an_import_that_cannot_be_is_refused_at_its_field_and_kept_as_typed(
    operator: Client, form: dict[str, str], field: str
) -> None:
    answer = operator.post("/models/import", form)
    assert answer.status_code == 422 and not Job.objects.exists()
    assert field in answer.context["form"].errors
    assert f'value="{form["location"]}"' in answer.content.decode() or not form["location"]


def test_the_fields_follow_the_source_and_a_name_is_suggested(operator: Client) -> None:
    page = operator.get("/models/import", {"source": "hub", "location": "Qwen/Qwen3-0.6B"}).content.decode()
    assert "qwen3-0.6b" in page and 'name="commit"' in page
    page = operator.get("/models/import", {"source": "gguf", "location": "/m/A b.Q4.GGUF"}).content.decode()
    assert "a-b.q4" in page and 'name="commit"' not in page
    assert 'name="location"' not in operator.get("/models/import?source=package").content.decode()


@pytest.mark.parametrize(
    ("location", "name"),
    [("/models/Über Modell/", "ber-modell"), ("owner/--x..", "x"), ("", ""), ("a/" + "b" * 99, "b" * 64)],
)
def test_a_suggested_name_is_one_that_may_be(location: str, name: str) -> None:
    assert suggested_name("hub", location) == name


@pytest.mark.usefixtures("revision")
def test_files_are_deleted_and_nothing_can_be_done_with_them_any_more(
    operator: Client, settings: Any, tmp_path: Path
) -> None:
    settings.DATA_DIR = tmp_path
    made = make_revision("smol", "smol-2", folder="models/two")
    made.path.mkdir(parents=True)
    answer = operator.post("/models/smol/smol-2/delete", follow=True)
    assert "deleted" in said(answer) and deployment("smol-2").files_deleted_at is not None
    page = operator.get("/models/smol/smol-2/").content.decode()
    assert "files deleted" in page and page.count("Its files have been deleted.") >= 8
    assert "deleted" in said(operator.post("/models/smol/smol-2/load", follow=True))
    assert deployment("smol-2").wanted == "unloaded"
    shutil.rmtree(made.path, ignore_errors=True)


@pytest.mark.usefixtures("revision")
def test_a_viewer_sees_no_action_and_may_do_none(signed_in: SignedIn) -> None:
    viewer = signed_in(Role.VIEWER)
    for path in ("/models/", "/models/smol/", "/models/smol/smol-1/"):
        page = viewer.get(path).content.decode()
        assert 'method="post"' not in page.partition('id="content"')[2] and "/import" not in page
    for path in ("import", "release", *(f"smol/smol-1/{act}" for act in ACTS)):
        assert viewer.post(f"/models/{path}").status_code == 403
    for path in ("import", "smol/smol-1/settings"):
        assert viewer.get(f"/models/{path}").status_code == 403


ACTS = ("load", "unload", "keep", "force", "quantize", "certify", "delete", "settings", "advice")


@pytest.mark.usefixtures("revision")
def test_the_playground_opens_with_the_panes_that_the_address_names(operator: Client) -> None:
    set_shares(actor=Actor.person("test"), name="smol", weights={"smol-0": 90, "smol-1": 10})
    answer = operator.get("/playground/", {"pane": ["smol", "smol@smol-1", "smol@nothing"]})
    config = answer.context["config"]
    assert config["panes"] == ["smol", "smol@smol-1"]
    offered = {one["name"]: one["share"] for one in config["models"]}
    assert offered == {"smol": "90 % / 10 %", "smol@smol-1": "10 %"}
