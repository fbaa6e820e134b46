"""Appends to the audit log, inside the caller's transaction and under the chain's lock."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from django.db import transaction
from django.utils import timezone

from console.audit import checkpoint
from console.audit.models import Entry, Head
from console.storable import storable


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


@transaction.atomic
def write(
    *, actor: str, action: str, target: str, detail: Mapping[str, Any] | None = None, ip: str = ""
) -> Entry:
    """Append one entry, in the transaction that makes the change: both stand or fall together."""
    Head.objects.get_or_create(pk=1)
    # Locks the end of the chain until commit. SQLite has no row locks: there BEGIN IMMEDIATE is the lock.
    head = Head.objects.select_for_update().get(pk=1)
    entry = Entry(
        seq=head.seq + 1,
        at=timezone.now(),
        actor=storable(actor, length=200),
        ip=storable(ip, length=64),
        action=action,
        target=storable(target, length=300),
        detail=canonical(detail or {}),
        prev_hash=head.hash,
    )
    entry.hash = hash_of(entry)
    entry.save()
    head.seq, head.hash = entry.seq, entry.hash
    head.save()
    transaction.on_commit(partial(checkpoint.keep, seq=entry.seq, hash=entry.hash))
    return entry


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
