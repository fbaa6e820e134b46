"""The models' pages: what they say of models and revisions, and how fast they are with many."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from console.accounts.roles import Role
from console.audit.actor import Actor
from console.catalog.models import Deployment, Revision, ServedModel
from console.catalog.routes import set_shares
from tests.catalog_rows import make_revision, serve
from tests.console.dashboard.conftest import SignedIn
from tests.counting import MOST_OF_A_PAGE, costs_of_pages

pytestmark = pytest.mark.django_db

NUM_MODELS, NUM_REVISIONS = 500, 10_000
FILES = {"model.safetensors": {"sha256": "ab" * 32, "size": 250_000_000}}
FACTS = {"num_parameters": 134_515_008, "dtype": "bfloat16", "licence": "apache-2.0", "max_model_len": 8192}


@pytest.fixture
def viewer(signed_in: SignedIn) -> Client:
    return signed_in(Role.VIEWER)


@pytest.fixture
def operator(signed_in: SignedIn) -> Client:
    return signed_in(Role.OPERATOR)


def row(client: Client, name: str) -> Any:
    return {one.model.name: one for one in client.get("/models/").context["rows"]}[name]


def text(client: Client, path: str) -> str:
    return " ".join(client.get(path).content.decode().split())


def test_a_model_is_listed_with_what_answers_in_which_shares(viewer: Client) -> None:
    serve("smol", "smol-1", files=FILES, facts=FACTS, folder="a")
    make_revision("smol", "smol-2", files=FILES, facts=FACTS, folder="a")
    make_revision("smol", "smol-3", files=FILES, facts=FACTS, folder="b")
    set_shares(actor=Actor.person("test"), name="smol", weights={"smol-1": 90, "smol-3": 10})
    one = row(viewer, "smol")
    assert one.num_revisions == 3
    assert one.num_bytes == 500_000_000  # the first two run from one folder
    assert [(arm.revision_id, arm.weight) for arm in one.arms] == [("smol-1", 90), ("smol-3", 10)]
    page = text(viewer, "/models/")
    assert "135 M" in page and "apache-2.0" in page and "90 %" in page


def test_the_state_that_is_shown_is_what_the_reconciler_found(viewer: Client) -> None:
    serve("smol", "smol-1")
    for state, shown in (
        ({"state": "ready", "memory_bytes": 2_000_000_000}, "1.9"),
        ({"state": "loading", "stage": "reading weights", "fraction": 0.4}, "loading 40 %"),
        ({"state": "waiting", "reason": "needs 3 GB"}, "waits for memory"),
        ({"state": "failed", "reason": "out of memory"}, "failed"),
        ({"state": "absent"}, "about to load"),
    ):
        Deployment.objects.update(**{"reason": "", **state})
        assert shown in text(viewer, "/models/")
        revision = text(viewer, "/models/smol/smol-1/")
        assert str(state.get("reason", "")) in revision and str(state.get("stage", "")) in revision


def test_a_revisions_page_tells_its_dtype_and_what_that_was_chosen_by(viewer: Client) -> None:
    serve("smol", "smol-1")
    card = {"device": "cpu", "dtype": "float32", "why_dtype": "measured steps: float32 <15.6> ms"}
    Deployment.objects.update(state="ready", card=card)
    page = text(viewer, "/models/smol/smol-1/")
    assert "cpu, float32" in page and "measured steps: float32" in page


def test_a_state_is_asked_for_until_it_rests_and_then_the_page_is_loaded_anew(viewer: Client) -> None:
    serve("smol", "smol-1")
    path = "/models/smol/smol-1/state"
    Deployment.objects.update(state="loading", fraction=0.5)
    answer = viewer.get(path)
    assert "every 2s" in answer.content.decode() and "HX-Refresh" not in answer
    Deployment.objects.update(state="ready")
    answer = viewer.get(path)
    assert "every 2s" not in answer.content.decode() and answer["HX-Refresh"] == "true"


def test_the_list_is_narrowed_by_name_and_state(viewer: Client) -> None:
    for name in ("alpha", "beta"):
        serve(name, f"{name}-1")
    Deployment.objects.filter(revision="beta-1").update(state="ready")

    def names(query: str) -> list[str]:
        return [one.model.name for one in viewer.get(f"/models/?{query}").context["rows"]]

    assert names("") == ["alpha", "beta"]
    assert names("words=ALP") == ["alpha"]
    assert names("state=ready") == ["beta"]
    assert names("state=nonsense&page=99") == ["alpha", "beta"]
    assert "No matching models" in text(viewer, "/models/?words=zzz")


def test_an_empty_catalog_names_the_next_step(viewer: Client) -> None:
    assert "An operator imports the first." in text(viewer, "/models/")


def test_a_revision_page_shows_parent_settings_files_and_history(viewer: Client) -> None:
    parent = serve("smol", "smol-1", files=FILES)
    make_revision("smol", "smol-2", parent=parent, files=FILES, engine={"num_blocks": 64}, facts=FACTS)
    set_shares(actor=Actor.person("maria"), name="smol", weights={"smol-1": 50, "smol-2": 50})
    page = text(viewer, "/models/smol/smol-2/")
    for part in ("smol-1", "num_blocks=64", "model.safetensors", "ab" * 32, "50 % of smol", "smol@smol-2"):
        assert part in page
    assert "smol-2" in text(viewer, "/models/smol/smol-1/")  # made from it


def test_what_is_not_there_is_not_found(viewer: Client) -> None:
    serve("smol", "smol-1")
    serve("other", "other-1")
    for path in (
        "/models/nobody/",
        "/models/smol/smol-9/",
        "/models/smol/other-1/",
        "/models/smol/other-1/state",
    ):
        assert viewer.get(path).status_code == 404


HOSTILE = '"><script>alert(1)</script>{{ 7|add:7 }}'


def test_hostile_facts_are_shown_as_what_they_are(viewer: Client) -> None:
    facts = {"licence": HOSTILE, "architecture": HOSTILE, "dtype": HOSTILE, "quantization": HOSTILE}
    files = {HOSTILE: {"sha256": HOSTILE, "size": 1}}
    serve("smol", "smol-1", facts=facts, files=files, source=HOSTILE, engine={"device": HOSTILE})
    Deployment.objects.update(state="failed", reason=HOSTILE, stage=HOSTILE)
    for path in ("/models/", "/models/smol/", "/models/smol/smol-1/"):
        assert "<script>alert" not in viewer.get(path).content.decode()


@pytest.mark.slow
def test_pages_cost_little_with_ten_thousand_revisions_of_five_hundred_models(operator: Client) -> None:
    models = ServedModel.objects.bulk_create(ServedModel(name=f"model-{n:03d}") for n in range(NUM_MODELS))
    names = ["config.json", "tokenizer.json", *(f"model-{n}.safetensors" for n in range(6))]
    files = {name: {"sha256": "ab" * 32, "size": 10**9} for name in names}
    revisions = Revision.objects.bulk_create(
        (
            Revision(
                id=f"model-{n % NUM_MODELS:03d}-{n}",
                # Half of all are one model's, which is the hardest page.
                model=models[0] if n % 2 else models[n % NUM_MODELS],
                folder=f"models/{n}",
                source="test",
                files=files,
                facts=FACTS,
            )
            for n in range(NUM_REVISIONS)
        ),
        batch_size=1000,
    )
    Deployment.objects.bulk_create((Deployment(revision=one) for one in revisions), batch_size=2000)
    for model in models[::2]:
        set_shares(
            actor=Actor.person("test"),
            name=model.name,
            weights={Revision.objects.filter(model=model)[0].pk: 100},
        )
    Deployment.objects.filter(wanted="loaded").update(state="ready", state_at=timezone.now() - timedelta(1))
    paths = [
        "/models/",
        "/models/?page=5",
        "/models/?words=42",
        "/models/?state=ready",
        "/models/model-000/",
        "/models/model-000/?page=300",
        f"/models/model-000/{revisions[1].pk}/",
        "/playground/",
    ]
    costs = costs_of_pages(operator, paths)
    assert {path: cost for path, cost in costs.items() if not cost.is_within(MOST_OF_A_PAGE)} == {}


def test_the_page_says_what_holds_where_a_request_is_silent_and_what_was_ignored(operator: Client) -> None:
    own = {"sampling": {"temperature": 0.6, "top_k": 20}, "ignored": ["optimizer.pt"], "num_ignored": 1}
    make_revision("said", "said-1", facts=own)
    make_revision("said", "said-2", facts=own, engine={"sampling_defaults": "openai"})
    make_revision("said", "said-3", facts={"sampling": {}, "context_from": "assumed", "max_model_len": 4096})
    make_revision("said", "said-4")
    pages = [operator.get(f"/models/said/said-{number}/").content.decode() for number in range(1, 5)]
    assert "temperature=0.6" in pages[0] and "top_k=20" in pages[0] and "optimizer.pt" in pages[0]
    assert "temperature=0.6" not in pages[1] and "OpenAI&#x27;s defaults" in pages[1].replace("'", "&#x27;")
    assert "the files name no others" in pages[2] and "assumed" in pages[2]
    assert "known once it was loaded" in pages[3]
