"""Quantize a revision and prove what that costs: asked for here, done by the jobs of `quantize_work.py`."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from django.utils.translation import gettext as _

from console.audit.actor import Actor
from console.catalog.actions import register, spec
from console.catalog.conversion import Converted, Progress, convert, run_child
from console.catalog.file_integrity import altered_file
from console.catalog.files import FilesChanged, check_files, files_lock, models_dir, stored_path
from console.catalog.import_request import METHODS
from console.catalog.models import Certificate, Revision
from console.certificates import status as certificates
from console.jobs.actions import enqueue
from console.jobs.models import Job
from inference.architectures import WITH_EXPERTS

OF_FLOATS = ("quantization", "quantize_head")  # settings that quantized files have no use for
RECEIPT = "converted.json"


class QuantizeRefused(RuntimeError):
    """What cannot be quantized, or is being quantized already."""


class CertifyRefused(RuntimeError):
    """What needs no certificate, or is being compared already."""


def start_quantize(*, actor: Actor, revision: Revision, method: str = "int8") -> Job:
    """Queue: quantize into a folder of its own, register that as a child, certify it."""
    if method not in METHODS:
        raise QuantizeRefused(_("Weights are quantized by: %(methods)s.") % {"methods": ", ".join(METHODS)})
    _check_here(revision, QuantizeRefused)
    if found := revision.facts.get("quantization"):
        raise QuantizeRefused(_("It is quantized already: %(method)s.") % {"method": found})
    if revision.facts.get("architecture") in WITH_EXPERTS:
        raise QuantizeRefused(_("A mixture of experts is not quantized."))
    _check_idle(revision, QuantizeRefused)
    arguments = {"revision": revision.pk, "method": method}
    return enqueue(actor=actor, kind="quantize", subject=revision.pk, arguments=arguments)


def start_certify(*, actor: Actor, revision: Revision) -> Job:
    """Queue: measure the revision, or the one of its line that has the same numbers, against its parent."""
    subject = certificates.numbers_of(revision)
    if subject.parent is None:
        raise CertifyRefused(_("It needs no certificate: its numbers are those of an original."))
    _check_here(subject, CertifyRefused)
    _check_here(subject.parent, CertifyRefused)
    _check_idle(subject, CertifyRefused)
    arguments = {"revision": subject.pk}
    return enqueue(actor=actor, kind="certify", subject=subject.pk, arguments=arguments)


def quantize(*, actor: Actor, parent: Revision, method: str, progress: Progress) -> Revision:
    """Write the quantized folder, or take the one that an earlier start finished, and register it.

    Raises `ConversionFailed` and `FilesChanged`.
    """
    progress("checking the parent's files", 0.0)
    check_files(parent)
    target = models_dir() / f"{parent.pk}-{method}"
    converted = _finished(target, method, progress)
    if converted is None:
        _clear(target)
        converted = convert(
            "--folder", parent.path, "--quantize", method, "--target", target, progress=progress
        )
    progress("registering", 0.99)  # the last moment to cancel
    with files_lock():
        return register(
            actor=actor,
            name=parent.model.name,
            converted=converted,
            source=f"{method}:{parent.pk}",
            engine={name: value for name, value in parent.engine.items() if name not in OF_FLOATS},
            parent=parent,
            facts=_licensed(converted, parent),
        )


def certify(*, actor: Actor, revision: Revision, progress: Progress, job: str = "") -> Certificate:
    """Measure a revision and its parent in a child process, and write the certificate down.

    Raises `ConversionFailed` and `FilesChanged`.
    """
    assert revision.parent is not None
    for one in (revision, revision.parent):
        check_files(one)
    measured = run_child(
        "inference.certify.compare",
        "--revision-folder", revision.path, "--settings", _settings(revision),
        "--parent-folder", revision.parent.path, "--parent-settings", _settings(revision.parent),
        progress=progress,
    )  # fmt: skip
    for one in (revision, revision.parent):  # what was measured is what was registered
        if name := altered_file(one):
            raise FilesChanged(f"{name} of revision {one.pk} has changed while it was measured")
    return certificates.issue(actor=actor, revision=revision, measured=measured, job=job)


def _finished(target: Path, method: str, progress: Progress) -> Converted | None:
    """The folder of an earlier start, where it is whole and is what its receipt says."""
    receipt = target / RECEIPT
    if not receipt.is_file():
        return None
    told = json.loads(receipt.read_text())
    found = convert("--folder", target, progress=progress)
    if found.files != told["files"] or told["quantization"]["method"] != method:
        return None
    return found


def _clear(target: Path) -> None:
    """Make room for a new folder. Raises `FilesChanged` where the old one is a revision's."""
    if not target.exists():
        return
    owners = Revision.objects.filter(folder=stored_path(target), deployment__files_deleted_at=None)
    if owner := owners.first():
        raise FilesChanged(f"{target} of revision {owner.pk} has changed: delete its files first")
    shutil.rmtree(target)


def _licensed(converted: Converted, parent: Revision) -> dict[str, object]:
    """What the files say; the licence is the parent's, whose README did not come along."""
    inherited = {name: parent.facts[name] for name in ("licence",) if name in parent.facts}
    return {**inherited, **converted.facts}


def _settings(revision: Revision) -> str:
    return json.dumps(asdict(spec(revision).engine))


def _check_here(revision: Revision, refusal: Callable[[str], Exception]) -> None:
    if revision.deployment.files_deleted_at is not None:
        raise refusal(_("The files of %(revision)s have been deleted.") % {"revision": revision.pk})


def _check_idle(revision: Revision, refusal: Callable[[str], Exception]) -> None:
    at_work = Job.objects.filter(kind__in=("quantize", "certify"), subject=revision.pk, state__in=Job.OPEN)
    if job := at_work.first():
        raise refusal(_("%(job)s is running for it already.") % {"job": job.pk})
