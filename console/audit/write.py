"""Appends to the audit log, inside the caller's transaction and under the chain's lock."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from django.db import transaction
from django.utils import timezone

from console.audit.actor import SYSTEM, Actor
from console.audit.alarm import ALARMS
from console.audit.anchor import ANCHOR
from console.audit.chain import NO_HASH, canonical, code_of, coded_text, hash_of
from console.audit.checkpoint import BadCheckpoint
from console.audit.models import Entry, Head
from console.database.after_commit import after_commit
from console.database.text import stored_text

logger = logging.getLogger(__name__)


@transaction.atomic
def write(*, actor: Actor, action: str, target: str, detail: Mapping[str, Any] | None = None) -> Entry:
    """Append one entry, in the transaction that makes the change: both stand or fall together."""
    head = lock_end()
    if head.keyed_from is None:
        head.keyed_from = head.seq + 1
        if head.seq:  # by a version without codes: from here on, and for what the hash covers, there are some
            detail_of_key = {"before": head.seq}
            _append(head, actor=SYSTEM, action="audit.keyed", target="audit", detail=detail_of_key)
    entry = _append(head, actor=actor, action=action, target=target, detail=detail or {})
    head.save()
    after_commit(partial(ANCHOR.advance, seq=entry.seq), name="audit checkpoint")
    return entry


def lock_end() -> Head:
    """Where the chain goes on, locked until commit. A head that is not the last entry's is an alarm."""
    Head.objects.get_or_create(pk=1)
    # SQLite has no row locks: there BEGIN IMMEDIATE is the lock.
    head = Head.objects.select_for_update().get(pk=1)
    seq, hash = Entry.objects.order_by("-seq").values_list("seq", "hash").first() or (0, NO_HASH)
    if (seq, hash) != (head.seq, head.hash):
        problem = f"the head of the chain says entry {head.seq}, but the last one is another: {seq}"
        ALARMS.sound(problem, first_bad=min(seq, head.seq) + 1)
        if seq >= head.seq:
            head.seq, head.hash = seq, hash
    if head.seq == 0:
        try:
            ANCHOR.begin()
        except (OSError, BadCheckpoint):
            logger.exception("the audit log's first checkpoint cannot be kept")
            ALARMS.sound("the first checkpoint could not be kept")
    return head


def _append(head: Head, *, actor: Actor, action: str, target: str, detail: Mapping[str, Any]) -> Entry:
    entry = Entry(
        seq=head.seq + 1,
        at=timezone.now(),
        actor=stored_text(actor.name, length=200),
        ip=stored_text(actor.ip, length=64),
        action=action,
        target=stored_text(target, length=300),
        detail=canonical(detail),
        prev_hash=head.hash,
    )
    entry.hash = hash_of(entry)
    entry.mac = code_of(coded_text(entry.seq, entry.hash))
    entry.save()
    head.seq, head.hash = entry.seq, entry.hash
    return entry
