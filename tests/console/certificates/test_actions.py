"""Quantize and certify as jobs: real children, crashes at every point, nothing half-made registered."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from django.conf import LazySettings
from safetensors.torch import load_file, save_file

from console.audit.actor import Actor
from console.audit.models import Entry
from console.catalog import conversion
from console.catalog.actions import delete_files, derive, import_model
from console.catalog.import_request import ImportRequest
from console.catalog.models import Certificate, Deployment, Revision
from console.certificates import actions as quantizing
from console.certificates import job_kinds as quantize_work
from console.certificates import status as certificates
from console.certificates.actions import CertifyRefused, QuantizeRefused, start_certify, start_quantize
from console.certificates.status import status_of
from console.jobs.actions import cancel
from console.jobs.execute import run
from console.jobs.models import Job
from console.jobs.transitions import take
from inference.certify import compare as certify_child
from inference.checkpoints.model_folder import UnsafeModel
from inference.convert import __main__ as convert_child
from inference.convert.output import CannotWrite
from tests.inference.convert.hostile import model_folder

pytestmark = pytest.mark.django_db(transaction=True)

SETTINGS = {"device": "cpu", "dtype": "float32", "num_threads": 1}


@pytest.fixture(autouse=True)
def data_dir(tmp_path: Path, settings: LazySettings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    settings.DATA_DIR = tmp_path / "data"
    lenient = {name: dict(limit) for name, limit in certificates.THRESHOLDS.items()}
    lenient["top1_agreement"] = {"least": 0.5}  # random weights have no favourites
    lenient |= {"kl_mean": {"most": 1.0}, "kl_p99": {"most": 5.0}, "perplexity_ratio": {"most": 1.5}}
    monkeypatch.setattr(certificates, "THRESHOLDS", lenient)
    yield tmp_path / "data"


def run_here(module: str, *arguments: str | Path, progress: Any) -> dict[str, Any]:
    """A child's work in this process: what a child is, other tests see."""
    main = {"inference.convert": convert_child, "inference.certify.compare": certify_child}[module]
    progress(f"running {module}", 0.5)
    try:
        return main.run(main._parser().parse_args([str(argument) for argument in arguments]))
    except (CannotWrite, UnsafeModel) as error:
        raise conversion.ConversionFailed("cannot_write", str(error)) from error


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No child processes, and short texts."""
    threads = torch.get_num_threads()
    for place in (conversion, quantizing):
        monkeypatch.setattr(place, "run_child", run_here)
    monkeypatch.setattr(certify_child, "MAX_TEXT", 130)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def original(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Revision:
    request = ImportRequest("tiny", "folder", str(model_folder(tmp_path / "tiny")), engine=SETTINGS)
    with monkeypatch.context() as patched:
        patched.setattr(conversion, "run_child", run_here)
        return import_model(actor=Actor.person("mia"), request=request, progress=lambda stage, fraction: None)


def worked(job: Job) -> Job:
    """Take the job and run it to its end, as a worker would."""
    mine = take(job.pk)
    assert mine is not None
    run(mine)
    job.refresh_from_db()
    return job


def quantized(original: Revision) -> tuple[Job, Revision]:
    job = worked(start_quantize(actor=Actor.person("mia"), revision=original))
    assert job.state == Job.State.DONE, (job.error, list(job.lines.values_list("text", flat=True)))
    return job, Revision.objects.get(pk=job.result["revision"])


def test_a_job_quantizes_registers_and_certifies(original: Revision, data_dir: Path) -> None:
    job, made = quantized(original)
    assert made.parent == original and made.engine == SETTINGS
    assert made.path == data_dir.resolve() / "models" / f"{original.pk}-int8"
    assert made.facts["quantization"] == "pilothouse_int8"
    assert made.num_bytes < original.num_bytes
    certificate = Certificate.objects.get()
    assert certificate.revision == made and certificate.parent == original and certificate.has_passed
    assert certificate.measured_by["job"] == job.pk
    assert certificate.measured_by["revision"]["quantization"] == "pilothouse_int8"
    assert status_of(made).kind == "passed"
    assert job.result["has_passed"] is True and job.fraction == 1
    stages = list(job.lines.values_list("text", flat=True))
    assert {"quantizing", "measuring the parent", "measuring the revision"} <= set(stages)
    actions = Entry.objects.filter(target=made.pk).values_list("action", flat=True)
    assert {"catalog.import", "catalog.certify"} <= set(actions)


@pytest.mark.usefixtures("here")
def test_a_certificate_that_fails_leaves_the_revision_with_its_reason(
    original: Revision, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "THRESHOLDS", {**certificates.THRESHOLDS, "kl_mean": {"most": 1e-9}})
    job, made = quantized(original)
    assert job.result["has_passed"] is False and "1e-09" not in job.result["reason"]
    assert status_of(made).kind == "failed" and status_of(made).reason == job.result["reason"]
    assert made.deployment.wanted == Deployment.Wanted.UNLOADED


@pytest.mark.usefixtures("here")
def test_a_spoilt_layer_is_caught_though_the_manifest_is_in_order(
    original: Revision, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    convert = quantizing.convert

    def spoils(*arguments: Any, progress: Any) -> Any:
        made = convert(*arguments, progress=progress)
        if "--quantize" in arguments:
            tensors = load_file(made.folder / "model.safetensors")
            tensors["model.layers.2.mlp.down_proj.weight_scale"] *= 0
            save_file(tensors, made.folder / "model.safetensors", metadata={"format": "pt"})
            return convert("--folder", made.folder, progress=progress)
        return made

    monkeypatch.setattr(quantizing, "convert", spoils)
    job, made = quantized(original)
    assert job.result["has_passed"] is False
    assert "model.layers.2.mlp.down_proj" in status_of(made).reason


@pytest.mark.usefixtures("here")
def test_settings_alone_are_certified_with_the_settings_in_play(original: Revision) -> None:
    rounded = derive(actor=Actor.person("mia"), revision=original, engine={**SETTINGS, "dtype": "bfloat16"})
    assert status_of(rounded).kind == "missing"
    job = worked(start_certify(actor=Actor.person("mia"), revision=rounded))
    assert job.state == Job.State.DONE, job.error
    measured = Certificate.objects.get().measured_by
    assert (measured["revision"]["dtype"], measured["parent"]["dtype"]) == ("bfloat16", "float32")
    larger = derive(actor=Actor.person("mia"), revision=rounded, engine={**rounded.engine, "num_blocks": 64})
    assert status_of(larger).kind == status_of(rounded).kind == "passed"
    assert start_certify(actor=Actor.person("mia"), revision=larger).subject == rounded.pk


@pytest.mark.usefixtures("here")
def test_a_finished_folder_is_taken_up_and_nothing_is_made_twice(
    original: Revision, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process died between quantizing and registering, then between registering and certifying."""

    class Died(BaseException):
        pass

    def dies(*arguments: Any, **named: Any) -> Any:
        raise Died

    job = start_quantize(actor=Actor.person("mia"), revision=original)
    with monkeypatch.context() as patched, pytest.raises(Died):
        patched.setattr(quantizing, "register", dies)
        quantize_work.quantize(Begun(job))
    assert Revision.objects.count() == 1
    folder = quantizing.models_dir() / f"{original.pk}-int8"
    written = (folder / "model.safetensors").stat().st_mtime_ns
    with monkeypatch.context() as patched, pytest.raises(Died):
        patched.setattr(certificates, "issue", dies)
        quantize_work.quantize(Begun(job))
    assert Revision.objects.count() == 2 and not Certificate.objects.exists()
    assert status_of(Revision.objects.get(parent=original)).kind == "missing"
    assert worked(job).state == Job.State.DONE, job.error
    assert (folder / "model.safetensors").stat().st_mtime_ns == written
    assert Revision.objects.count() == 2 and Certificate.objects.count() == 1
    quantize_work.quantize(Begun(job))
    assert Certificate.objects.count() == 1  # which was there already


@pytest.mark.usefixtures("here")
def test_a_folder_that_is_not_what_its_receipt_says_is_made_anew(original: Revision) -> None:
    folder = quantizing.models_dir() / f"{original.pk}-int8"
    model_folder(folder)
    (folder / "converted.json").write_text(json.dumps({"files": {}, "quantization": {"method": "int8"}}))
    _, made = quantized(original)
    assert made.path == folder and made.facts["quantization"] == "pilothouse_int8"


@pytest.mark.usefixtures("here")
def test_files_of_a_revision_are_never_overwritten(original: Revision) -> None:
    _, made = quantized(original)
    (made.path / "config.json").write_text((made.path / "config.json").read_text() + " ")
    job = worked(start_quantize(actor=Actor.person("mia"), revision=original))
    assert (job.state, job.error_code) == (Job.State.FAILED, "files_changed")
    assert made.pk in job.error and made.path.is_dir()


@pytest.mark.usefixtures("here")
def test_what_was_tampered_with_is_not_measured(original: Revision) -> None:
    _, made = quantized(original)
    content = bytearray((made.path / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (made.path / "model.safetensors").write_bytes(content)
    job = worked(start_certify(actor=Actor.person("mia"), revision=made))
    assert (job.state, job.error_code) == (Job.State.FAILED, "files_changed")
    assert "model.safetensors" in job.error and Certificate.objects.count() == 1


def converting() -> list[psutil.Process]:
    """The children that convert or measure; the tests have others."""
    found = psutil.Process().children()
    ours = ("inference.convert", "inference.certify")
    return [child for child in found if any(name in " ".join(child.cmdline()) for name in ours)]


@pytest.mark.parametrize("stage", ["quantizing", "measuring the revision"])
def test_cancelling_ends_the_child_and_leaves_nothing_half_made(
    stage: str, original: Revision, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = start_quantize(actor=Actor.person("mia"), revision=original)
    children: list[psutil.Process] = []

    def cancels(own: Any, found: str, fraction: float) -> None:
        if found == stage and not children:
            children.extend(converting())
            cancel(actor=Actor.person("mia"), job=job)
        progress(own, found, fraction)

    from console.jobs.job_context import RunningJob

    progress = RunningJob.progress
    monkeypatch.setattr(RunningJob, "progress", cancels)
    monkeypatch.setattr(RunningJob, "check", RunningJob.check)
    assert worked(job).state == Job.State.CANCELLED
    assert children and not any(child.is_running() for child in children)
    assert not Certificate.objects.exists()
    is_registered = stage == "measuring the revision"
    assert Revision.objects.filter(parent=original).exists() is is_registered
    assert not list(quantizing.models_dir().glob(".*.part"))
    monkeypatch.undo()


def test_a_child_that_is_killed_fails_the_job_and_the_next_one_succeeds(
    original: Revision, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    from console.jobs.job_context import RunningJob

    progress = RunningJob.progress

    def kills(own: Any, found: str, fraction: float) -> None:
        progress(own, found, fraction)
        if found == "quantizing":
            for child in converting():
                os.kill(child.pid, signal.SIGKILL)

    with monkeypatch.context() as patched:
        patched.setattr(RunningJob, "progress", kills)
        job = worked(start_quantize(actor=Actor.person("mia"), revision=original))
    assert (job.state, job.error_code) == (Job.State.FAILED, "died")
    assert Revision.objects.count() == 1
    request.getfixturevalue("here")
    _, made = quantized(original)
    assert status_of(made).kind == "passed"


@pytest.mark.usefixtures("here")
def test_what_makes_no_sense_is_refused_at_once(original: Revision) -> None:
    with pytest.raises(QuantizeRefused, match="int8"):
        start_quantize(actor=Actor.person("mia"), revision=original, method="int3")
    with pytest.raises(CertifyRefused, match="original"):
        start_certify(actor=Actor.person("mia"), revision=original)
    job = start_quantize(actor=Actor.person("mia"), revision=original)
    with pytest.raises(QuantizeRefused, match=job.pk):
        start_quantize(actor=Actor.person("mia"), revision=original)
    worked(job)
    made = Revision.objects.get(parent=original)
    with pytest.raises(QuantizeRefused, match="pilothouse_int8"):
        start_quantize(actor=Actor.person("mia"), revision=made)
    Deployment.objects.filter(pk=made.pk).update(files_deleted_at="2026-01-01T00:00Z")
    with pytest.raises(CertifyRefused, match="deleted"):
        start_certify(actor=Actor.person("mia"), revision=Revision.objects.get(pk=made.pk))


@pytest.mark.usefixtures("here")
def test_deleted_files_come_back_with_their_certificate(original: Revision) -> None:
    _, made = quantized(original)
    delete_files(actor=Actor.person("mia"), revision=made)
    assert not made.path.exists()
    _, again = quantized(original)
    assert again == made and again.path.is_dir()
    assert status_of(again).kind == "passed" and Certificate.objects.count() == 1


class Begun:
    """A job's work as its function sees it, in a process that may die."""

    def __init__(self, job: Job) -> None:
        self.job_id, self.actor = job.pk, job.asked_by
        self.arguments = job.arguments

    def progress(self, stage: str, fraction: float) -> None:
        pass

    def check(self) -> None:
        pass

    def log(self, text: str) -> None:
        pass


def test_no_torch_is_imported_where_jobs_run() -> None:
    """A second thread that computes would halve decode speed in `serve`."""
    import subprocess
    import sys

    script = (
        "import os, sys; os.environ['DJANGO_SETTINGS_MODULE'] = 'console.settings';"
        "import django; django.setup(); import console.catalog.job_kinds;"
        "print('torch' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"
    assert torch.get_num_threads() >= 1


@pytest.mark.usefixtures("here")
def test_a_mixture_of_experts_is_refused_at_once(original: Revision) -> None:
    original.facts = original.facts | {"architecture": "Qwen3MoeForCausalLM"}
    with pytest.raises(QuantizeRefused, match="mixture of experts"):
        start_quantize(actor=Actor.person("mia"), revision=original)
