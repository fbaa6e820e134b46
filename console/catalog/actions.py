"""What changes the catalog: import a model, give a revision other settings, delete files."""

from __future__ import annotations

import hashlib
import json
import shutil
import uuid
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Q
from django.utils import timezone

from console.audit.actor import SYSTEM, Actor
from console.audit.write import write
from console.catalog.conversion import Converted, Progress
from console.catalog.engine_settings import in_play
from console.catalog.files import (
    check_files,
    files_lock,
    is_ours,
    models_dir,
    sharing,
    stored_path,
    sweep,
    target_of,
)
from console.catalog.import_request import ImportRefused, ImportRequest, check_context, check_engine
from console.catalog.models import Deployment, Revision, Route, ServedModel
from console.catalog.routes import ALL, set_shares
from console.catalog.sources.hub import is_fetched
from console.catalog.sources.package import SMOLLM2, from_package
from console.database.after_commit import after_commit
from console.jobs.actions import enqueue
from console.jobs.models import Job
from inference.config import EngineConfig, RevisionSpec

DEFAULT_MODEL = "smollm2-135m"
DIGEST_LENGTH = 12
ENGINE_SETTINGS = {field.name for field in fields(EngineConfig)}


class DeleteRefused(RuntimeError):
    """Files that are still needed; the message says by what."""


def start_import(
    *,
    actor: Actor,
    name: str,
    source: str,
    location: str = "",
    commit: str = "",
    quantize: str | None = None,
    engine: Mapping[str, Any] | None = None,
) -> Job:
    """Queue an import. Raises `ImportRefused` (with `field`) for whatever can be known before."""
    request = ImportRequest(name, source, location, commit, quantize, engine or {})
    request.check_place()
    request.check()
    return enqueue(actor=actor, kind="import", subject=name, arguments=request.arguments())


def import_model(
    *, actor: Actor, request: ImportRequest, progress: Progress, key: str | None = None
) -> Revision:
    """Obtain the files, check, convert where needed, register. What a job does, and the command line.

    Two starts with one `key` are one import: the second goes on with what the first has written. Raises
    `ImportRefused`, `PackageRefused` and `ConversionFailed`. The same files with the same settings give the
    revision that exists.
    """
    request.check()
    target = target_of(request.name, key or uuid.uuid4().hex[:16])
    if target.exists() and not is_fetched(target):  # by an earlier start, which ended before it registered
        shutil.rmtree(target)
    obtained = request.obtain(target=target, progress=progress)
    try:
        check_context(request.engine, obtained.converted.facts)
    except ImportRefused:
        shutil.rmtree(target, ignore_errors=True)
        raise
    progress("registering", 0.99)  # the last moment to cancel
    converted = obtained.converted
    with files_lock():
        revision = register(
            actor=actor,
            name=request.name,
            converted=converted,
            source=obtained.source,
            engine=request.engine,
            facts=converted.facts,
        )
        if converted.folder == target != revision.path and target.exists():
            shutil.rmtree(target)  # the same files are registered already
    return revision


@transaction.atomic
def register(
    *,
    actor: Actor,
    name: str,
    converted: Converted,
    source: str,
    engine: Mapping[str, Any],
    parent: Revision | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Revision:
    """The only maker of revisions. A new name answers at once; a later revision waits to be rolled out."""
    served, _ = ServedModel.objects.get_or_create(name=name)
    identity = json.dumps([converted.files, dict(engine)], sort_keys=True).encode()
    revision_id = f"{name}-{hashlib.sha256(identity).hexdigest()[:DIGEST_LENGTH]}"
    revision, is_new = Revision.objects.get_or_create(
        id=revision_id,
        defaults={
            "model": served,
            "parent": parent,
            "folder": stored_path(converted.folder),
            "source": source,
            "files": converted.files,
            "engine": dict(engine),
            "facts": dict(converted.facts if facts is None else facts),
        },
    )
    Deployment.objects.get_or_create(revision=revision)
    if is_new:
        detail = {"source": source, "folder": revision.folder, "engine": dict(engine)}
        if parent:
            detail["parent"] = parent.id
        write(actor=actor, action="catalog.import", target=revision.id, detail=detail)
    else:
        _bring_back(actor=actor, revision=revision, folder=converted.folder)
    if not Route.objects.filter(name=name).exists():
        set_shares(actor=actor, name=name, weights={revision.id: ALL}, reason="first revision")
    return revision


def derive(*, actor: Actor, revision: Revision, engine: Mapping[str, Any]) -> Revision:
    """The same files with other engine settings, as a revision of its own. Raises `ImportRefused`."""
    check_engine(engine)
    if revision.deployment.files_deleted_at is not None:
        raise ImportRefused(f"the files of revision {revision.id} have been deleted", field="revision")
    converted = Converted(revision.path, revision.files, revision.facts)
    return register(
        actor=actor,
        name=revision.model.name,
        converted=converted,
        source=revision.source,
        engine=engine,
        parent=revision,
    )


@transaction.atomic
def delete_files(*, actor: Actor, revision: Revision) -> None:
    """Give the disk of a revision back; its row stays, and what refers to it.

    Marked first and removed afterwards, so that a crash between leaves nothing servable; the next start
    removes the rest. Files outside DATA_DIR are forgotten, not removed. Raises `DeleteRefused`.
    """
    together = list(sharing(revision).values_list("pk", flat=True))
    deployments = Deployment.objects.select_for_update().filter(revision_id__in=together)
    for deployment in deployments.order_by("pk"):
        _check_unused(deployment, revision)
    if not deployments.filter(files_deleted_at=None).update(files_deleted_at=timezone.now()):
        return
    detail = {"folder": revision.folder, "revisions": together, "is_removed": is_ours(revision)}
    write(actor=actor, action="catalog.delete_files", target=revision.id, detail=detail)
    after_commit(sweep, name="delete files")


def ensure_default_model(*, progress: Progress, actor: Actor = SYSTEM) -> Revision:
    """The current revision of the default model: fetched, converted and registered at the first call.

    Later calls need no network and no conversion; they check the files' hashes. Raises
    `PackageRefused`, `ConversionFailed` and `FilesChanged`.
    """
    known = Revision.objects.filter(model__name=DEFAULT_MODEL, deployment__files_deleted_at=None)
    if (revision := known.order_by("created_at").first()) is not None:
        check_files(revision)
        return revision
    target = models_dir() / DEFAULT_MODEL
    converted = from_package(SMOLLM2, data_dir=Path(settings.DATA_DIR), target=target, progress=progress)
    with files_lock():
        return register(
            actor=actor,
            name=DEFAULT_MODEL,
            converted=converted,
            source=f"package:{SMOLLM2.requirement}",
            engine={},
        )


def spec(revision: Revision) -> RevisionSpec:
    """What the engine is asked to load: the revision's own settings over those of the environment."""
    return RevisionSpec(revision=revision.id, folder=revision.path, engine=EngineConfig(**in_play(revision)))


def _bring_back(*, actor: Actor, revision: Revision, folder: Path) -> None:
    """Files that were deleted and are here again: under the revision's own path, which never changes."""
    gone = Deployment.objects.filter(revision__in=sharing(revision)).exclude(files_deleted_at=None)
    if not gone.exists():
        return
    if revision.path != folder:
        if not is_ours(revision) or folder.parent != models_dir():
            raise ImportRefused(
                f"these are the files of revision {revision.id}, which were deleted from {revision.path}:"
                " put them back there and import that folder",
                field="location",
            )
        if revision.path.exists():
            shutil.rmtree(revision.path)  # marked as deleted, not yet removed
        folder.rename(revision.path)
    gone.update(files_deleted_at=None)
    write(actor=actor, action="catalog.restore_files", target=revision.id, detail={})


def _check_unused(deployment: Deployment, asked: Revision) -> None:
    revision = deployment.revision
    which = (
        f"revision {revision.id}"
        if revision == asked
        else f"revision {revision.id}, which shares the folder,"
    )
    if arm := revision.arms.select_related("route").first():
        raise DeleteRefused(f"{which} is an arm of the route {arm.route.name}: take it out first")
    if deployment.wanted == Deployment.Wanted.LOADED:
        raise DeleteRefused(f"{which} is wanted loaded: unload it first")
    if deployment.state not in (Deployment.State.ABSENT, Deployment.State.FAILED):
        raise DeleteRefused(f"{which} is {deployment.state}: wait until it is unloaded")
    at_work = Q(arguments__revision=revision.id) | Q(subject=revision.id)
    if job := Job.objects.filter(at_work, state__in=Job.OPEN).first():
        raise DeleteRefused(f"{which} is read by {job.pk} ({job.kind}): let it end or cancel it")
