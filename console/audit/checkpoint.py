"""How far the log was right, signed and kept in DATA_DIR, outside the database that it vouches for.

A database whose tail was cut off, or that was put back from an old copy, no longer agrees with it. Each is
one line of JSON, so that it can be sent elsewhere, kept there, and held against the log later.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from django.conf import settings

from console.audit.chain import NO_HASH, code_of, is_genuine


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The entry `seq` had this hash. From `keyed_from` on, each entry carries a code (None: kept by a version
    that knew none). What stands before `base` was broken, seen by a person, and is held by its digest.
    """

    seq: int
    hash: str
    keyed_from: int | None = None
    base: int = 1
    base_digest: str = ""


BEGINNING = Checkpoint(0, NO_HASH, keyed_from=1)


class BadCheckpoint(Exception):
    """The checkpoint cannot vouch for the log: it is missing, unreadable, forged or an old one."""


def as_line(kept: Checkpoint) -> str:
    columns = asdict(kept)
    return json.dumps(columns | {"signature": code_of(_text(columns))})


def from_line(line: str, *, origin: str) -> Checkpoint:
    """The checkpoint that a line says, if this server signed it. BadCheckpoint names `origin`."""
    try:
        columns = json.loads(line)
        signature = str(columns.pop("signature"))
        kept = Checkpoint(**columns)
        is_signed = (
            _is_of_before(kept, signature) if len(columns) == 2 else is_genuine(signature, _text(columns))
        )
        int(kept.seq), int(kept.base), str(kept.hash)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadCheckpoint(f"{origin} is not readable") from error
    if not is_signed:
        raise BadCheckpoint(f"{origin} carries a wrong signature")
    return kept


def _text(columns: dict[str, Any]) -> str:
    return "checkpoint:" + json.dumps(columns, sort_keys=True, separators=(",", ":"))


def _is_of_before(kept: Checkpoint, signature: str) -> bool:
    """Signed by a version whose entries had no codes, and whose key was SECRET_KEY."""
    text = f"pilothouse.audit.checkpoint:{kept.seq}:{kept.hash}"
    made = hmac.new(settings.SECRET_KEY.encode(), text.encode(), hashlib.sha256).hexdigest()
    return hmac.compare_digest(signature.encode(), made.encode())


def load() -> Checkpoint | None:
    """The kept checkpoint; None where there is no file. Raises BadCheckpoint."""
    path = Path(settings.AUDIT_CHECKPOINT)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise BadCheckpoint(f"{path} is not readable") from error
    return from_line(text, origin=str(path))


def store(kept: Checkpoint) -> None:
    """Keep it instead of the last one, on disk when this returns."""
    write_durably(Path(settings.AUDIT_CHECKPOINT), as_line(kept))


def ship(kept: Checkpoint) -> None:
    """Add it to the copy elsewhere, where there is one: `audit_verify --checkpoint` reads that."""
    if settings.AUDIT_CHECKPOINT_COPY is None:
        return
    with Path(settings.AUDIT_CHECKPOINT_COPY).open("a", encoding="utf-8") as copy:
        copy.write(as_line(kept) + "\n")
        copy.flush()
        os.fsync(copy.fileno())


def write_durably(path: Path, text: str) -> None:
    """A file that is whole or not there, readable by its owner alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    part.replace(path)


@contextmanager
def locked() -> Iterator[None]:
    """Several processes may write to the log: one at a time moves the checkpoint."""
    path = Path(settings.AUDIT_CHECKPOINT).with_suffix(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
