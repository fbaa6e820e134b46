"""An import as a job: validated before it is queued, relayed, cancelled, refused in words, never half."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.conf import LazySettings
from pydantic import SecretStr

from console.audit.actor import Actor
from console.audit.models import Entry
from console.catalog.actions import start_import
from console.catalog.files import check_files, sweep, target_of
from console.catalog.import_request import ImportRefused, ImportRequest
from console.catalog.models import Revision, Route, ServedModel
from console.catalog.routes import shares
from console.catalog.sources import hub as source
from console.environment import environment
from console.jobs.actions import cancel
from console.jobs.execute import run, take
from console.jobs.job_context import RunningJob
from console.jobs.models import Job
from tests.console.certificates.canary import CANARY, PICKLE
from tests.hub import COMMIT, Hub, serving
from tests.inference.convert.hostile import gguf_bytes, model_folder, safetensors_bytes, tiny_gguf

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, settings: LazySettings) -> Path:
    settings.DATA_DIR = tmp_path / "data"
    return tmp_path / "data"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model")


@pytest.fixture
def hub(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with serving() as hub:
        hub.add("someone/tiny", folder)
        changes = {"hub_endpoint": hub.endpoint, "hub_token": SecretStr(hub.token)}
        changed = environment().model_copy(update=changes)
        monkeypatch.setattr(source, "environment", lambda: changed)
        yield hub


def queue(name: str = "tiny", **arguments: Any) -> Job:
    return start_import(actor=Actor.person("mia"), name=name, **arguments)


def done(job: Job) -> Job:
    assert take(job.pk)
    run(Job.objects.get(pk=job.pk))
    job.refresh_from_db()
    return job


def folders(data_dir: Path) -> list[Path]:
    return [path for path in (data_dir / "models").iterdir() if path.is_dir()]


def test_a_folder_is_imported(folder: Path) -> None:
    job = done(queue(source="folder", location=str(folder)))
    assert (job.state, job.subject, job.fraction) == ("done", "tiny", 1.0), job.error
    revision = Revision.objects.get()
    assert job.result == {"revision": revision.id, "model": "tiny"}
    assert shares(Route.objects.get(name="tiny")) == {revision.id: 100}
    assert revision.facts["architecture"] == "LlamaForCausalLM" and revision.facts["model_type"] == "llama"
    assert revision.facts["weight_bytes"] > 0 and revision.facts["max_model_len"] > 0
    assert Entry.objects.get(action="catalog.import").actor == "mia"
    assert [line.text for line in job.lines.all()] == [
        "checking",
        "trying tokenizer and template",
        "trying it",
        "registering",
    ]


def test_a_folder_of_training_says_what_was_ignored_and_assumed(folder: Path, data_dir: Path) -> None:
    (folder / "optimizer.pt").write_bytes(PICKLE)
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "top_k": 20}')
    job = done(queue(source="folder", location=str(folder), engine={"max_model_len": 64}))
    assert job.state == "done", job.error
    revision = Revision.objects.get()
    assert revision.path.parent == data_dir / "models" and not (revision.path / "optimizer.pt").exists()
    assert revision.engine == {"max_model_len": 64}
    said = [line.text for line in job.lines.all()]
    assert "ignored, and neither opened nor copied: optimizer.pt" in said
    assert any("temperature 0.6, top_k 20" in line for line in said)
    check_files(revision)


def test_a_context_longer_than_the_models_is_refused_before_it_answers(folder: Path, data_dir: Path) -> None:
    (folder / "optimizer.pt").write_bytes(PICKLE)
    job = done(queue(source="folder", location=str(folder), engine={"max_model_len": 10**6}))
    assert (job.state, job.error_code) == ("failed", "import_refused") and "own context holds" in job.error
    assert not Route.objects.exists() and folders(data_dir) == []


def test_a_kind_that_is_not_served_never_answers(folder: Path, data_dir: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    changed = config | {"architectures": ["LlamaForSequenceClassification"]}
    (folder / "config.json").write_text(json.dumps(changed))
    job = done(queue(source="folder", location=str(folder)))
    assert (job.state, job.error_code) == ("failed", "not_served") and "reranker" in job.error
    assert not Route.objects.exists() and not Revision.objects.exists()


def test_a_repository_is_imported_at_its_commit(hub: Hub, data_dir: Path) -> None:
    job = done(queue(source="hub", location="someone/tiny", commit="main"))
    assert job.state == "done", job.error
    revision = Revision.objects.get()
    assert revision.source == f"hub:someone/tiny@{COMMIT}" and revision.facts["commit"] == COMMIT
    assert folders(data_dir) == [revision.path]
    check_files(revision)
    assert not list((data_dir / "downloads" / "hub").glob("[!.]*@*"))
    said = json.dumps([job.arguments, job.result, *job.lines.values_list("text", flat=True)])
    assert hub.token not in said and hub.token not in str(list(Entry.objects.values("detail")))


def test_a_repository_can_be_quantized_on_its_way(hub: Hub, data_dir: Path) -> None:
    job = done(queue(source="hub", location="someone/tiny", quantize="int8"))
    assert job.state == "done", job.error
    revision = Revision.objects.get()
    assert revision.facts["quantization"] == "pilothouse_int8" and revision.facts["commit"] == COMMIT
    assert folders(data_dir) == [revision.path]


def test_what_a_start_had_fetched_is_registered_by_the_next(hub: Hub, data_dir: Path) -> None:
    job = queue(source="hub", location="someone/tiny")
    request = ImportRequest(**job.arguments)
    target = target_of("tiny", job.pk)
    obtained = request.obtain(target=target, progress=lambda stage, fraction: None)
    assert obtained.converted.folder == target and target.exists()
    hub.repositories.clear()  # nothing could be fetched again
    job = done(job)
    assert job.state == "done", job.error
    assert Revision.objects.get().facts["commit"] == COMMIT and folders(data_dir) == [target]


def test_a_conversion_that_an_earlier_start_had_ended_is_made_anew(tmp_path: Path, data_dir: Path) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    job = queue(source="gguf", location=str(tmp_path / "tiny.gguf"))
    target = target_of("tiny", job.pk)
    target.mkdir(parents=True)
    (target / "half").touch()
    job = done(job)
    assert job.state == "done", job.error
    assert folders(data_dir) == [target] and not (target / "half").exists()


def test_cancelling_ends_the_child_and_leaves_nothing(
    tmp_path: Path, data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    job = queue(source="gguf", location=str(tmp_path / "tiny.gguf"))
    progress = RunningJob.progress

    def cancel_at(self: RunningJob, stage: str, fraction: float) -> None:
        if stage == "starting torch":
            cancel(actor=Actor.person("ben"), job=job)
            self._look()
        progress(self, stage, fraction)

    monkeypatch.setattr(RunningJob, "progress", cancel_at)
    started = time.monotonic()
    job = done(job)
    assert job.state == "cancelled" and time.monotonic() - started < 60
    sweep()
    assert folders(data_dir) == [] and not Revision.objects.exists() and not ServedModel.objects.exists()


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"name": "Tiny"}, "name"),
        ({"source": "ftp"}, "source"),
        ({"location": "relative/path"}, "location"),
        ({"location": "/nowhere"}, "location"),
        ({"location": "/"}, "location"),
        ({"location": "/etc"}, "location"),
        ({"location": "a\x00b"}, "location"),
        ({"source": "gguf", "location": "/etc/passwd"}, "location"),
        ({"source": "gguf", "location": "/dev/zero"}, "location"),
        ({"source": "hub", "location": "no-owner"}, "location"),
        ({"source": "hub", "location": "../../etc/passwd"}, "location"),
        ({"source": "hub", "location": "https://elsewhere.example/a/b"}, "location"),
        ({"source": "hub", "location": "a/b", "commit": "../main"}, "commit"),
        ({"source": "hub", "location": "a/b", "commit": "--upload-pack"}, "commit"),
        ({"commit": "main"}, "commit"),
        ({"source": "package", "location": "another==1"}, "location"),
        ({"quantize": "int1"}, "quantize"),
        ({"engine": {"blocks": 1}}, "engine.blocks"),
        ({"engine": {"num_blocks": "many"}}, "engine.num_blocks"),
        ({"engine": {"device": "abacus"}}, "engine.device"),
        ({"engine": {"num_blocks": 0}}, "engine"),
    ],
)
def test_what_cannot_be_is_refused_before_it_is_queued(
    arguments: dict[str, Any], field: str, folder: Path
) -> None:
    given = {"name": "tiny", "source": "folder", "location": str(folder), **arguments}
    with pytest.raises(ImportRefused) as refused:
        start_import(actor=Actor.person("mia"), **given)
    assert refused.value.field == field and str(refused.value)
    assert not Job.objects.exists() and not Entry.objects.exists()


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(PICKLE)


def auto_map(folder: Path) -> None:
    (folder / "modeling_evil.txt").write_text(f"open({str(CANARY)!r}, 'w')")
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "evil"}
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_evil.Evil", "AutoConfig": "modeling_evil.Evil"}
    (folder / "config.json").write_text(json.dumps(config))


def pickled_safetensors(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(PICKLE)


def lying_header(folder: Path) -> None:
    lie = {"w": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 16]}}
    (folder / "model.safetensors").write_bytes(safetensors_bytes(lie))


def escaping_link(folder: Path) -> None:
    (folder / "generation_config.json").unlink(missing_ok=True)
    (folder / "generation_config.json").symlink_to("/etc/passwd")


HOSTILE: list[tuple[Callable[[Path], None], str, bool]] = [
    (pickled, "can carry code", False),
    (auto_map, "auto_map", True),
    (pickled_safetensors, "not a safetensors file", True),
    (lying_header, "described wrongly", True),
    (escaping_link, "leaves the folder", False),
]


def assert_refused(job: Job, reason: str, data_dir: Path) -> None:
    assert (job.state, job.error_code) == ("failed", "unsafe_model") and reason in job.error
    sweep()
    assert not Revision.objects.exists() and not Route.objects.exists() and folders(data_dir) == []
    assert not CANARY.exists(), "something of the model was run"


@pytest.mark.parametrize(("spoil", "reason", "_in_hub"), HOSTILE)
def test_a_hostile_folder_is_refused_and_nothing_of_it_is_run(
    spoil: Callable[[Path], None],
    reason: str,
    _in_hub: bool,
    folder: Path,
    data_dir: Path,
) -> None:
    spoil(folder)
    job = done(queue(source="folder", location=str(folder), quantize="int8"))
    assert_refused(job, reason, data_dir)


@pytest.mark.parametrize(("spoil", "reason", "_in_hub"), [one for one in HOSTILE if one[2]])
def test_a_hostile_repository_is_refused_and_nothing_of_it_is_run(
    spoil: Callable[[Path], None], reason: str, _in_hub: bool, folder: Path, hub: Hub, data_dir: Path
) -> None:
    spoil(folder)
    hub.add("someone/tiny", folder)
    assert_refused(done(queue(source="hub", location="someone/tiny")), reason, data_dir)


def test_a_lying_gguf_file_is_refused(tmp_path: Path, data_dir: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(gguf_bytes(tensors=[("w", [2**40], 0, 0)]))
    job = done(queue(source="gguf", location=str(tmp_path / "x.gguf")))
    assert_refused(job, "outside the file", data_dir)


def test_the_canary_sings_when_a_pickle_is_read() -> None:
    """What the tests above rely on: reading this very pickle would leave the file."""
    import pickle

    try:
        pickle.loads(PICKLE)
        assert CANARY.exists()
    finally:
        os.unlink(CANARY)


def test_a_gated_repository_fails_with_what_to_do(hub: Hub) -> None:
    hub.repositories["someone/tiny"].is_gated, hub.token = True, "another"
    job = done(queue(source="hub", location="someone/tiny"))
    assert (job.state, job.error_code) == ("failed", "hub_token") and "HUB_TOKEN" in job.error
