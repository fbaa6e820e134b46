"""The certificate on a revision's page: what it says in each state, and the next step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from django.test import Client

from console.accounts.roles import Role
from console.audit.actor import Actor
from console.catalog.models import Revision
from console.certificates import status as certificates
from console.certificates.status import issue
from inference import corpus
from tests.catalog_rows import make_revision

pytestmark = pytest.mark.django_db

SignedIn = Callable[[Role], Client]
LAYER = "model.layers.3.mlp.up_proj"


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, settings: LazySettings) -> None:
    settings.DATA_DIR = tmp_path


@pytest.fixture
def child() -> Revision:
    parent = make_revision("m", "m-original")
    return make_revision("m", "m-int8", parent=parent, engine={"quantization": "int8"})


def certified(child: Revision, **figures: Any) -> None:
    served = {"device": "cpu", "dtype": "float32", "quantization": None, "attention": "cpu"}
    versions = certificates._versions()
    text = {
        "kind": "shell_and_sql", "num_tokens": 420, "perplexity": 7.8, "parent_perplexity": 7.7,
        "top1_agreement": 0.969, "kl_mean": 0.0027,
    }  # fmt: skip
    measured = {
        "corpus_digest": corpus.digest(),
        "measured_by": {
            **{name: versions[name] for name in certificates.MEASURED_WITH},
            "revision": served,
            "parent": served,
        },
        "figures": {
            "size_bytes": 167061283, "parent_size_bytes": 272585121,
            "weight_bytes": 220177408, "parent_weight_bytes": 538060288,
            "num_tokens": 5141, "num_broken": 0, "perplexity": 13.74, "parent_perplexity": 13.68,
            "perplexity_ratio": 1.004, "top1_agreement": 0.964, "kl_mean": 0.0028, "kl_p99": 0.0216,
            "greedy_prefix": 35.2, "greedy_tokens": 64, "num_prompts": 13, "texts": [text],
            "worst_layer": LAYER, "worst_weight_error": 0.0118, "seconds": 61.2,
            "layers": [{"name": LAYER, "weight_error": 0.0118}],
            **figures,
        },
    }  # fmt: skip
    issue(actor=Actor.person("mia"), revision=child, measured=measured, job="job-1")


def page(client: Client, revision: str = "m-int8") -> str:
    response = client.get(f"/models/m/{revision}/")
    assert response.status_code == 200
    whole = response.content.decode()
    start = whole.index('id="certificate"')
    return whole[start : whole.index("</section>", start)]


def test_an_original_needs_none(child: Revision, signed_in: SignedIn) -> None:
    found = page(signed_in(Role.OPERATOR), "m-original")
    assert "not needed" in found and "Certify" not in found


def test_where_there_is_none_operators_are_offered_to_certify(child: Revision, signed_in: SignedIn) -> None:
    found = page(signed_in(Role.OPERATOR))
    assert "none yet" in found and "m-original" in found
    assert 'action="/models/m/m-int8/certify"' in found
    assert "<form" not in page(signed_in(Role.VIEWER))


def test_a_certificate_shows_each_figure_beside_its_limit(child: Revision, signed_in: SignedIn) -> None:
    certified(child)
    found = page(signed_in(Role.VIEWER))
    assert "Quality matches the original (within all limits)." in found
    for figure in (
        "96.4 %",
        "90.0 %",
        "1.004",
        "1.050",
        "0.0028",
        "0.0216",
        LAYER,
        "1.2 %",
        "5,141",
        "35 of 64",
    ):
        assert figure in found
    assert found.count("kept") == 6 and "missed" not in found
    assert "shell and sql" in found and "job-1" in found and "torch" in found


def test_a_failed_one_says_what_was_missed(child: Revision, signed_in: SignedIn) -> None:
    certified(child, worst_weight_error=0.5, kl_mean=0.1)
    found = page(signed_in(Role.VIEWER))
    assert "The quality loss is beyond the limits." in found and found.count("not met") == 2
    assert f"50.0 % at {LAYER}" in found


def test_an_outdated_one_says_why_and_what_to_do(
    child: Revision, signed_in: SignedIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    certified(child)
    monkeypatch.setattr(corpus, "digest", lambda: "0" * 64)
    found = page(signed_in(Role.OPERATOR))
    assert "no longer valid" in found and "other texts" in found and "Certify again" in found
