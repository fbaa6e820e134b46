"""What binds the entries of the log: each entry's hash over itself and the hash before, and a code that only
this server's key makes.

The hash can be checked by anybody, so anybody can also make one. The code (HMAC-SHA256) cannot be made with
the database alone: the key is in `AUDIT_KEY`, or in DATA_DIR.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from django.conf import settings

from console.audit.models import Entry

NO_HASH = "0" * 64


def canonical(detail: Mapping[str, Any]) -> str:
    """The one way to write a detail down, so that equal details have equal hashes."""
    return json.dumps(detail, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def chained_hash(
    *, seq: int, at: datetime, actor: str, ip: str, action: str, target: str, detail: str, prev_hash: str
) -> str:
    """SHA-256 over every column and the hash before; anyone can recompute it without Pilothouse."""
    moment = at.astimezone(UTC).isoformat(timespec="microseconds")
    columns = [seq, moment, actor, ip, action, target, detail, prev_hash]
    return hashlib.sha256(json.dumps(columns, separators=(",", ":")).encode()).hexdigest()


def hash_of(entry: Entry) -> str:
    """The hash that an entry with these columns must have."""
    return chained_hash(
        seq=entry.seq,
        at=entry.at,
        actor=entry.actor,
        ip=entry.ip,
        action=entry.action,
        target=entry.target,
        detail=entry.detail,
        prev_hash=entry.prev_hash,
    )


def code_of(content: str, *, key: str | None = None) -> str:
    """The keyed code of a text; by the first key unless another is named."""
    key = settings.AUDIT_KEYS[0] if key is None else key
    return hmac.new(key.encode(), f"pilothouse.audit:{content}".encode(), hashlib.sha256).hexdigest()


def is_genuine(code: str, content: str) -> bool:
    """Whether one of this server's keys, the present or a former one, made the code."""
    return any(
        hmac.compare_digest(code.encode(), code_of(content, key=key).encode()) for key in settings.AUDIT_KEYS
    )


def coded_text(seq: int, hash: str) -> str:
    """What an entry's code vouches for: its hash covers every column, and all entries before."""
    return f"entry:{seq}:{hash}"


def problem_of(entry: Entry, *, expected_seq: int, prev_hash: str | None, needs_code: bool) -> str:
    """What is wrong with an entry in this place; empty for nothing. No `prev_hash`: it begins a chain."""
    if entry.seq != expected_seq:
        return f"it is missing: entry {entry.seq} follows"
    if prev_hash is not None and entry.prev_hash != prev_hash:
        return "it does not follow from the entry before"
    try:
        own_hash = hash_of(entry)
    except (AttributeError, TypeError, ValueError, OverflowError):  # such as a time that is none
        return "its content cannot be read"
    if entry.hash != own_hash:
        return "its content does not fit its hash"
    if (needs_code or entry.mac) and not is_genuine(entry.mac, coded_text(entry.seq, entry.hash)):
        return "its code was not made with this server's key"
    return ""
