"""Whether a revision's files are still those that were registered, without hashing gigabytes each time."""

from __future__ import annotations

import hashlib
from pathlib import Path

from console.catalog.models import FileCheck, Revision

Look = list[int] | None  # size, times and place as the file system tells them; None: no file there


def altered_file(revision: Revision) -> str:
    """The first file that is missing or not what was registered; "" where all are as they were.

    A file is hashed when it looks different from the last time it was: its size, when it was written, when
    anything about it was changed (which nobody can set back), or its place on the disk.
    """
    known = FileCheck.objects.filter(pk=revision.pk).first()
    found = looks(revision)  # before the hashes are read
    if known is not None and known.looks == found:
        return known.altered
    before = known.looks if known is not None and not known.altered else {}
    changed = (name for name, look in found.items() if not _is_as_it_was(revision, name, look, before))
    altered = next(changed, "")
    FileCheck.objects.update_or_create(pk=revision.pk, defaults={"looks": found, "altered": altered})
    return altered


def looks(revision: Revision) -> dict[str, Look]:
    """How each file of a revision looks now, by its name."""
    return {name: _look(revision.path / name) for name in revision.files}


def _is_as_it_was(revision: Revision, name: str, look: Look, before: dict[str, Look]) -> bool:
    if look is None:
        return False
    if look == before.get(name):
        return True
    expected = revision.files[name]
    if look[0] != expected["size"]:
        return False
    with (revision.path / name).open("rb") as file:
        return bool(hashlib.file_digest(file, "sha256").hexdigest() == expected["sha256"])


def _look(path: Path) -> Look:
    try:
        found = path.stat()
    except OSError:
        return None
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]
