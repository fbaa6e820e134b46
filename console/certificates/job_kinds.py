"""The jobs that quantize and certify."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from typing import Any

from django.utils.translation import gettext_lazy as _

from console.catalog.conversion import ConversionFailed, Progress
from console.catalog.files import FilesChanged
from console.catalog.models import Certificate, Revision
from console.certificates import actions as quantizing
from console.certificates.status import status_of
from console.jobs.models import Job
from console.jobs.registry import Function, JobContext, JobFailed, kind

QUANTIZE_SHARE = 0.35  # of the whole job; the rest is the certificate


def mendable(function: Function) -> Function:
    """What people can mend ends the job with its reason."""

    @wraps(function)
    def run(work: JobContext) -> Mapping[str, Any]:
        try:
            return function(work)
        except ConversionFailed as failed:
            raise JobFailed(str(failed), code=failed.code) from failed
        except FilesChanged as changed:
            raise JobFailed(str(changed), code="files_changed") from changed

    return run


@kind("quantize", label=_("quantize a model"), where=Job.Where.WORKER)
@mendable
def quantize(work: JobContext) -> Mapping[str, Any]:
    """Begun again after a crash, it takes up the quantized folder, and a certificate that was written."""
    parent = _revision(work)
    made = quantizing.quantize(
        actor=work.actor,
        parent=parent,
        method=str(work.arguments["method"]),
        progress=_part(work, 0.0, QUANTIZE_SHARE),
    )
    work.log(f"revision {made.pk}")
    if made.parent_id is None:
        work.log("it was imported before, as an original: it needs no certificate")
        return {"revision": made.pk}
    found = status_of(made)
    if found.kind in ("passed", "failed") and found.certificate is not None:
        return _said(work, found.certificate)
    return _certify(work, made, _part(work, QUANTIZE_SHARE, 1.0))


@kind("certify", label=_("certify a model"), where=Job.Where.WORKER)
@mendable
def certify(work: JobContext) -> Mapping[str, Any]:
    """Begun again after a crash, it measures again: nothing is written before the end."""
    return _certify(work, _revision(work), work.progress)


def _certify(work: JobContext, revision: Revision, progress: Progress) -> Mapping[str, Any]:
    certificate = quantizing.certify(actor=work.actor, revision=revision, progress=progress, job=work.job_id)
    return _said(work, certificate)


def _said(work: JobContext, certificate: Certificate) -> dict[str, Any]:
    found = status_of(certificate.revision)
    work.log(f"{'passed' if found.is_sound else 'not passed'}: {found.reason}")
    return {
        "revision": certificate.revision_id,
        "certificate": certificate.pk,
        "has_passed": certificate.has_passed,
        "reason": found.reason,
    }


def _part(work: JobContext, start: float, end: float) -> Callable[[str, float], None]:
    """Progress of one phase as a part of the whole."""
    return lambda stage, fraction: work.progress(stage, start + (end - start) * fraction)


def _revision(work: JobContext) -> Revision:
    found = Revision.objects.select_related("model", "parent", "deployment")
    return found.get(pk=work.arguments["revision"])
