"""The files of revisions on disk: where they lie, whether they are those that were registered, their end."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from django.conf import settings
from django.db.models import QuerySet

from console.catalog.models import Deployment, Revision
from console.jobs.models import Job

KEPT_SECONDS = 7 * 86400  # a transfer that was cut waits for somebody to try again
PIECE_BYTES = 16 * 2**20
DELETED = ".deleted-"  # a folder on its way out: renamed first, so that a half one never looks whole


class FilesChanged(RuntimeError):
    """A revision's files are not those that were imported."""


def models_dir() -> Path:
    return Path(settings.DATA_DIR).resolve() / "models"


def stored_path(folder: Path) -> str:
    """Relative inside DATA_DIR, so that DATA_DIR may move."""
    root = Path(settings.DATA_DIR).resolve()
    return str(folder.relative_to(root) if folder.is_relative_to(root) else folder)


def is_ours(revision: Revision) -> bool:
    """Whether the files lie where only imports write: others are used in place, and never removed."""
    return revision.path.resolve().parent == models_dir()


def check_files(revision: Revision) -> None:
    """Raises `FilesChanged` where a file is missing or its hash is not the one that was registered."""
    for name, expected in revision.files.items():
        path = revision.path / name
        if not path.is_file():
            raise FilesChanged(f"{path} of revision {revision.id} is missing: import the model again")
        if path.stat().st_size != expected["size"] or _sha256(path) != expected["sha256"]:
            raise FilesChanged(f"{path} of revision {revision.id} has changed since it was imported")


def sharing(revision: Revision) -> QuerySet[Revision]:
    """The revisions whose files lie in the same folder, this one among them."""
    return Revision.objects.filter(folder=revision.folder)


def target_of(name: str, key: str) -> Path:
    """Where an import writes. The same for every start of a job, so that a later one finds its work."""
    return models_dir() / f"{name}-{key.removeprefix('job-')}"


@contextmanager
def files_lock() -> Iterator[None]:
    """Held while folders become a revision's, or stop being one, in any process of this DATA_DIR."""
    models_dir().mkdir(parents=True, exist_ok=True)
    with (models_dir() / ".files.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def sweep() -> None:
    """Remove what nobody needs: files marked as deleted, and what imports that ended otherwise left."""
    with files_lock():
        for folder in _marked():
            folder.rename(models_dir() / f"{DELETED}{uuid.uuid4().hex}")
        for target in _abandoned():
            if target.exists():
                target.rename(models_dir() / f"{DELETED}{uuid.uuid4().hex}")
    for folder in models_dir().glob(f"{DELETED}*"):
        shutil.rmtree(folder, ignore_errors=True)
    for part in models_dir().glob(".*.part"):
        if _is_free(part.with_suffix(".lock")):
            shutil.rmtree(part, ignore_errors=True)
    _forget_downloads()


def _forget_downloads() -> None:
    """Transfers that nobody has gone on with for a while."""
    if Job.objects.filter(kind="import", state__in=Job.OPEN).exists():
        return
    oldest = time.time() - KEPT_SECONDS
    for folder in (models_dir().parent / "downloads" / "hub").glob("*@*"):
        if folder.is_dir() and folder.stat().st_mtime < oldest:
            shutil.rmtree(folder, ignore_errors=True)


def _marked() -> Iterator[Path]:
    """Folders of ours whose revisions have all lost their files."""
    kept = set(
        Revision.objects.filter(deployment__files_deleted_at=None).order_by().values_list("folder", flat=True)
    )
    for deployment in Deployment.objects.exclude(files_deleted_at=None).select_related("revision"):
        revision = deployment.revision
        if revision.folder not in kept and is_ours(revision) and revision.path.is_dir():
            yield revision.path


def _abandoned() -> Iterator[Path]:
    """What an import had written when it failed or was cancelled between writing and registering."""
    registered = set(Revision.objects.order_by().values_list("folder", flat=True))
    ended = Job.objects.filter(kind="import", state__in=[Job.State.FAILED, Job.State.CANCELLED])
    for pk, arguments in ended.values_list("pk", "arguments"):
        target = target_of(str(arguments.get("name")), pk)
        if stored_path(target) not in registered:
            yield target


def _is_free(lock: Path) -> bool:
    """Whether no process writes there any more: its lock ended with it."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except BlockingIOError:
        return False
    return True


def _sha256(path: Path) -> str:
    """In large pieces: after each the thread waits its turn among those that run Python."""
    digest = hashlib.sha256()
    piece = memoryview(bytearray(PIECE_BYTES))
    with path.open("rb", buffering=0) as file:
        while size := file.readinto(piece):
            digest.update(piece[:size])
    return digest.hexdigest()
