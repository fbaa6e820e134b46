"""The last entry's number and hash, signed and kept in DATA_DIR, outside the database that it vouches for.

A database whose tail was cut off, or that was put back from an old copy, no longer agrees with it.
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import json
import os
from dataclasses import dataclass
from pathlib import Path

from django.conf import settings


@dataclass(frozen=True, slots=True)
class Checkpoint:
    seq: int
    hash: str


class CheckpointForged(Exception):
    """The checkpoint's signature does not fit its content."""


def _signature(seq: int, hash: str) -> str:
    key = settings.SECRET_KEY.encode()
    return hmac.new(key, f"pilothouse.audit.checkpoint:{seq}:{hash}".encode(), hashlib.sha256).hexdigest()


def load(path: Path | None = None) -> Checkpoint | None:
    """The kept checkpoint; none before the first entry."""
    path = path or Path(settings.AUDIT_CHECKPOINT)
    if not path.exists() or not (text := path.read_text()):
        return None
    try:
        kept = json.loads(text)
        seq, hash, signature = int(kept["seq"]), str(kept["hash"]), str(kept["signature"])
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointForged(f"{path} is not readable") from error
    if not hmac.compare_digest(signature, _signature(seq, hash)):
        raise CheckpointForged(f"{path} carries a wrong signature")
    return Checkpoint(seq, hash)


def keep(*, seq: int, hash: str) -> None:
    """Advance the checkpoint, never backwards: commits of several writers may arrive here out of order."""
    path = Path(settings.AUDIT_CHECKPOINT)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kept = load(path)
        if kept is not None and kept.seq >= seq:
            return
        part = path.with_suffix(".part")
        with part.open("w") as file:
            json.dump({"seq": seq, "hash": hash, "signature": _signature(seq, hash)}, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
