"""A certificate counts for these very files, measured on these texts by this installation, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings

import console
from console.audit.actor import Actor
from console.audit.models import Entry
from console.catalog import engine_settings, file_integrity
from console.catalog.models import Certificate, Deployment, Revision
from console.certificates import status as certificates
from console.certificates.status import NotCertified, issue, numbers_of, require, status_of
from console.certificates.thresholds import THRESHOLDS
from console.environment import environment
from inference import corpus
from tests.catalog_rows import make_revision

pytestmark = pytest.mark.django_db

GOOD: dict[str, Any] = {
    "top1_agreement": 0.96,
    "perplexity_ratio": 1.004,
    "kl_mean": 0.003,
    "kl_p99": 0.02,
    "worst_weight_error": 0.012,
    "worst_layer": "model.layers.3.mlp.up_proj",
    "num_broken": 0,
    "layers": [{"name": "model.layers.3.mlp.up_proj", "weight_error": 0.012}],
}


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, settings: LazySettings) -> Path:
    settings.DATA_DIR = tmp_path
    return tmp_path


def revision(name: str, content: str, tmp_path: Path, **columns: Any) -> Revision:
    folder = tmp_path / content
    folder.mkdir(exist_ok=True)
    files = {}
    for file in ("model.safetensors", "config.json"):
        written = f"{file} {content}".encode() * 100
        if not (folder / file).exists():
            (folder / file).write_bytes(written)
        files[file] = {"sha256": hashlib.sha256(written).hexdigest(), "size": len(written)}
    return make_revision("m", name, folder=str(folder), files=files, **columns)


@pytest.fixture
def original(tmp_path: Path) -> Revision:
    return revision("m-original", "exact", tmp_path)


@pytest.fixture
def child(original: Revision, tmp_path: Path) -> Revision:
    return revision("m-int8", "int8", tmp_path, parent=original)


def certified(child: Revision, **figures: Any) -> Certificate:
    as_served = {"device": "cpu", "dtype": "float32", "quantization": None, "attention": "cpu"}
    versions = certificates._versions()
    measured_by = {name: versions[name] for name in certificates.MEASURED_WITH}
    measured = {
        "corpus_digest": corpus.digest(),
        "measured_by": {**measured_by, "revision": as_served, "parent": as_served},
        "figures": GOOD | figures,
    }
    return issue(actor=Actor.person("mia"), revision=child, measured=measured, job="job-1")


@pytest.mark.parametrize(
    "columns", [{"facts": {"quantization": "pilothouse_int8"}}, {"engine": {"quantization": "int8"}}]
)
def test_what_was_quantized_at_import_has_nothing_to_be_compared_with(
    columns: dict[str, Any], tmp_path: Path
) -> None:
    quantized = revision("m-imported", "int8", tmp_path, **columns)
    assert status_of(quantized).kind == "missing"
    with pytest.raises(NotCertified, match="import the weights as they are"):
        require(quantized)


def test_methods_begin_as_quantized_folders_name_them() -> None:
    from inference.quantization.registry import METHODS, quantization_config

    for name in METHODS:
        assert quantization_config(name).quant_method.startswith(certificates.OWN_METHODS), name


def test_an_original_needs_none(original: Revision) -> None:
    assert status_of(original).kind == "not_needed"
    require(original)


def test_settings_that_change_no_number_need_none_and_others_do(original: Revision, tmp_path: Path) -> None:
    larger = revision("m-large", "exact", tmp_path, parent=original, engine={"num_blocks": 64})
    rounded = revision("m-bf16", "exact", tmp_path, parent=original, engine={"dtype": "bfloat16"})
    assert status_of(larger).kind == "not_needed"
    assert status_of(rounded).kind == "missing"
    with pytest.raises(NotCertified, match="m-original"):
        require(rounded)


def test_a_certificate_lets_it_pass_and_is_audited(child: Revision) -> None:
    assert status_of(child).kind == "missing"
    certificate = certified(child)
    found = status_of(child)
    assert (found.kind, found.certificate) == ("passed", certificate)
    require(child)
    entry = Entry.objects.get(action="catalog.certify")
    assert (entry.actor, entry.target, json.loads(entry.detail)["has_passed"]) == ("mia", "m-int8", True)


@pytest.mark.parametrize(
    ("figure", "value"),
    [
        ("top1_agreement", 0.89),
        ("perplexity_ratio", 1.06),
        ("kl_mean", 0.04),
        ("kl_p99", 0.5),
        ("worst_weight_error", 0.5),
        ("num_broken", 1),
    ],
)
def test_each_figure_can_fail_it(figure: str, value: float, child: Revision) -> None:
    assert not certified(child, **{figure: value}).has_passed
    assert status_of(child).kind == "failed"
    with pytest.raises(NotCertified) as refused:
        require(child)
    if figure == "worst_weight_error":
        assert "model.layers.3.mlp.up_proj" in str(refused.value) and "50.0 %" in str(refused.value)


def test_the_newest_certificate_counts(child: Revision) -> None:
    certified(child, kl_mean=1.0)
    certified(child)
    assert status_of(child).kind == "passed"
    certified(child, kl_mean=1.0)
    assert status_of(child).kind == "failed"


def test_a_byte_that_was_swapped_is_found_though_its_times_were_set_back(child: Revision) -> None:
    certified(child)
    require(child)
    path = child.path / "model.safetensors"
    before = path.stat()
    content = bytearray(path.read_bytes())
    content[50] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(NotCertified, match=r"model\.safetensors"):
        require(child)
    found = status_of(child)
    assert found.kind == "outdated" and found.certificate is not None
    content[50] ^= 1
    path.write_bytes(content)
    require(child)


def test_an_original_whose_files_changed_is_refused_too(original: Revision) -> None:
    (original.path / "config.json").unlink()
    with pytest.raises(NotCertified, match=r"config\.json"):
        require(original)


def test_files_are_hashed_when_they_look_different_and_only_those(
    child: Revision, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed: list[str] = []
    digest = hashlib.file_digest
    monkeypatch.setattr(
        file_integrity.hashlib,
        "file_digest",
        lambda file, kind: hashed.append(file.name) or digest(file, kind),
    )
    certified(child)
    for _ in range(3):
        status_of(child)
    assert len(hashed) == 2
    os.utime(child.path / "config.json")
    assert status_of(child).kind == "passed"
    assert hashed[2:] == [str(child.path / "config.json")]


def later(owner: Any, name: str, value: Any) -> Callable[[pytest.MonkeyPatch, Revision], None]:
    return lambda monkeypatch, child: monkeypatch.setattr(owner, name, value)


def served(**card: str) -> Callable[[pytest.MonkeyPatch, Revision], None]:
    return lambda monkeypatch, child: Deployment.objects.filter(pk=child.pk).update(card=card) and None


STRICTER = {**THRESHOLDS, "kl_mean": {"most": 0.001}}


@pytest.mark.parametrize(
    "change",
    [
        later(corpus, "digest", lambda: "0" * 64),
        later(certificates, "THRESHOLDS", STRICTER),
        later(console, "__version__", "9.9"),
        later(certificates, "version", lambda name: "9.9"),
        later(engine_settings, "environment", lambda: environment().model_copy(update={"dtype": "float16"})),
        served(device="cuda:0", dtype="float32"),
        served(device="cpu", dtype="bfloat16"),
    ],
    ids=["texts", "thresholds", "pilothouse", "torch", "settings", "device", "dtype"],
)
def test_what_was_measured_otherwise_no_longer_counts(
    change: Any, child: Revision, monkeypatch: pytest.MonkeyPatch
) -> None:
    certified(child)
    Deployment.objects.filter(pk=child.pk).update(card={"device": "cpu", "dtype": "float32"})
    assert status_of(Revision.objects.get(pk=child.pk)).kind == "passed"
    change(monkeypatch, child)
    found = status_of(Revision.objects.get(pk=child.pk))
    assert found.kind == "outdated" and found.reason
    with pytest.raises(NotCertified):
        require(Revision.objects.get(pk=child.pk))


def test_other_settings_of_a_failed_revision_do_not_clear_it(child: Revision, tmp_path: Path) -> None:
    certified(child, kl_mean=1.0)
    larger = revision("m-int8-large", "int8", tmp_path, parent=child, engine={"num_blocks": 64})
    assert numbers_of(larger) == child
    assert status_of(larger).kind == "failed"
    certified(child)
    assert status_of(larger).kind == "passed"


def test_a_good_copy_of_a_bad_parent_is_not_good(child: Revision, tmp_path: Path) -> None:
    certified(child, kl_mean=1.0)
    rounded = revision("m-int8-bf16", "int8", tmp_path, parent=child, engine={"dtype": "bfloat16"})
    certified(rounded)
    found = status_of(rounded)
    assert found.kind == "failed" and "m-int8" in found.reason


def test_a_parents_files_may_be_deleted_afterwards(child: Revision, original: Revision) -> None:
    certified(child)
    Deployment.objects.filter(pk=original.pk).update(files_deleted_at="2026-01-01T00:00Z")
    (original.path / "config.json").unlink()
    require(Revision.objects.get(pk=child.pk))
    with pytest.raises(NotCertified, match="deleted"):
        require(Revision.objects.get(pk=original.pk))


def test_the_bars_show_how_much_of_what_may_be_lost_is_lost(child: Revision) -> None:
    certified(child, top1_agreement=0.95, perplexity_ratio=0.99, kl_mean=0.3)
    used = {check.figure: check.used_percent for check in status_of(child).checks}
    assert used["top1_agreement"] == pytest.approx(50)
    assert (used["perplexity_ratio"], used["kl_mean"], used["num_broken"]) == (0, 100, 0)
