"""A folder that appears whole or not at all: built beside its place, flushed, then renamed."""

from __future__ import annotations

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class CannotWrite(OSError):
    """The disk is full, or another process is writing the same folder."""


def check_disk(folder: Path, *, num_bytes: int) -> None:
    """Raises `CannotWrite` before work starts where `num_bytes` would not fit."""
    free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise CannotWrite(
            f"the disk is too small: {folder} needs {num_bytes / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free"
        )


@contextmanager
def atomic_folder(target: Path) -> Iterator[Path]:
    """Yields a folder to write into; on success it becomes `target`, otherwise it is removed.

    What a killed run left behind is removed first; the lock dies with the process that holds it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(f".{target.name}.part")
    with target.with_name(f".{target.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise CannotWrite(f"{target} is being written by another process") from error
        if target.exists():
            raise CannotWrite(f"{target} exists already")
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir()
        try:
            yield part
            _flush(part)
            part.rename(target)
            _sync(target.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _flush(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.chmod(0o644)
        _sync(path)
    _sync(folder)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
