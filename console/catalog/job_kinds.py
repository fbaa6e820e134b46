"""The catalog's long work: kinds of jobs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.utils.translation import gettext_lazy as _

from console.catalog.actions import import_model
from console.catalog.conversion import ConversionFailed
from console.catalog.files import sweep
from console.catalog.import_remarks import remarks
from console.catalog.import_request import ImportRefused, ImportRequest
from console.catalog.models import Revision
from console.catalog.sources.package import PackageRefused
from console.jobs.models import Job
from console.jobs.registry import JobContext, JobFailed, kind


@kind("import", label=_("import a model"), where=Job.Where.WORKER)
def import_files(work: JobContext) -> Mapping[str, Any]:
    """Begun again after a crash, it goes on with what has been downloaded."""
    sweep()
    request = ImportRequest(**work.arguments)
    try:
        try:
            revision = _import(work, request)
        except ConversionFailed as failed:
            if failed.code != "died":
                raise
            work.log(f"{failed}; it is begun again")  # killed, as by a lack of memory that others caused
            revision = _import(work, request)
    except ImportRefused as refused:
        raise JobFailed(str(refused), code="import_refused") from refused
    except PackageRefused as refused:
        raise JobFailed(str(refused), code="package_refused") from refused
    except ConversionFailed as failed:
        raise JobFailed(str(failed), code=failed.code) from failed
    for remark in remarks(revision.facts):
        work.log(remark)
    return {"revision": revision.id, "model": request.name}


def _import(work: JobContext, request: ImportRequest) -> Revision:
    return import_model(actor=work.actor, request=request, progress=work.progress, key=work.job_id)
