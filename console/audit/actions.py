"""What people may do about the log: look into an alarm, and answer for going on."""

from __future__ import annotations

from functools import partial

from django.db import transaction

from console.audit import checkpoint
from console.audit.actor import Actor
from console.audit.alarm import ALARMS
from console.audit.anchor import ANCHOR
from console.audit.checkpoint import BadCheckpoint, Checkpoint
from console.audit.seal import digest_before
from console.audit.write import lock_end, write
from console.database.after_commit import after_commit

MAX_REASON = 500


class NoAlarm(Exception):
    """There is nothing to clear."""


class NoReason(Exception):
    """Whoever clears an alarm says why."""


@transaction.atomic
def clear_alarm(*, actor: Actor, reason: str) -> int:
    """Answer for the log as it stands: a row says what was found and why it goes on, and the chain is checked
    from that row on. What stands before is held by its digest. Returns the row's number.
    """
    alarm = ALARMS.current()
    if alarm is None:
        raise NoAlarm
    reason = reason.strip()
    if not 1 <= len(reason) <= MAX_REASON:
        raise NoReason
    base = lock_end().seq + 1
    digest = digest_before(base)
    detail = {"alarm": alarm.reason, "raised_at": alarm.at, "first_bad": alarm.first_bad, "reason": reason}
    detail |= {"checkpoint": _kept(), "digest": digest}
    entry = write(actor=actor, action="audit.alarm_cleared", target="audit", detail=detail)
    kept = Checkpoint(entry.seq, entry.hash, keyed_from=base, base=base, base_digest=digest)
    after_commit(partial(_go_on, kept), name="audit checkpoint")
    return entry.seq


def _go_on(kept: Checkpoint) -> None:
    from console.audit.watch import WATCH

    ANCHOR.restart(kept)
    ALARMS.silence()
    WATCH.forget()


def _kept() -> str:
    """Where the log was last known to be right."""
    try:
        kept = checkpoint.load()
    except BadCheckpoint as error:
        return str(error)
    return f"{kept.seq}:{kept.hash}" if kept else "missing"
