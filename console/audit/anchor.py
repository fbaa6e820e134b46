"""Moves the checkpoint with the log, but never past what is wrong: then it stays, and an alarm sounds."""

from __future__ import annotations

from dataclasses import replace
from threading import Lock

from console.audit import checkpoint
from console.audit.alarm import ALARMS
from console.audit.chain import problem_of
from console.audit.checkpoint import BEGINNING, BadCheckpoint, Checkpoint
from console.audit.models import Entry

MAX_BEHIND = 256  # entries that a crash may have cut off from their checkpoint; more: an old file


class Anchor:
    """The checkpoint as this process knows it: it also notices when an older one is put in its place."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._highest = 0

    def kept(self, *, num_entries: int) -> Checkpoint | None:
        """The checkpoint of a log of at least so many entries; None where both are new. BadCheckpoint."""
        kept = checkpoint.load()
        if kept is None:
            if num_entries:
                raise BadCheckpoint("the signed checkpoint is missing, though the log has entries")
            return None
        if kept.seq == self._highest or ALARMS.current() is not None:  # an alarm holds it where it is
            return kept
        if kept.seq < self._highest or kept.seq < num_entries - MAX_BEHIND:
            raise BadCheckpoint(f"the signed checkpoint is an old one: it stands at entry {kept.seq}")
        return kept

    def begin(self) -> None:
        """The log is empty: from now on a missing checkpoint is a removed one."""
        with checkpoint.locked():
            if checkpoint.load() is None:
                checkpoint.store(BEGINNING)

    def advance(self, *, seq: int) -> None:
        """Move the checkpoint on to an entry that is durable. Commits may arrive here out of order."""
        if ALARMS.current() is not None:
            return  # it stays where the log was right, until a person has looked
        with self._lock, checkpoint.locked():
            try:
                kept = self.kept(num_entries=seq)
                assert kept is not None, "a log with entries has a checkpoint, or an alarm"
            except BadCheckpoint as error:
                ALARMS.sound(str(error))
                return
            moved = _follow(kept, until=seq)
            if moved is not None and moved.seq > kept.seq:
                self._keep(moved)

    def restart(self, kept: Checkpoint) -> None:
        """Begin anew from an entry that a person answers for."""
        with self._lock, checkpoint.locked():
            self._keep(kept)

    def forget(self) -> None:
        """As a process that has just started."""
        self._highest = 0

    def _keep(self, kept: Checkpoint) -> None:
        checkpoint.store(kept)
        self._highest = kept.seq
        checkpoint.ship(kept)


def _follow(kept: Checkpoint, *, until: int) -> Checkpoint | None:
    """The checkpoint at the end of the chain that goes on from the kept one; else an alarm, and None."""
    if kept.seq and not Entry.objects.filter(seq=kept.seq, hash=kept.hash).exists():
        ALARMS.sound("it is not the entry that the signed checkpoint names", first_bad=kept.seq)
        return None
    entries = Entry.objects.filter(seq__gt=kept.seq, seq__lte=until).order_by("seq")
    for entry in entries.iterator(chunk_size=500):
        needs_code = kept.keyed_from is not None
        if problem := problem_of(
            entry, expected_seq=kept.seq + 1, prev_hash=kept.hash, needs_code=needs_code
        ):
            ALARMS.sound(problem, first_bad=kept.seq + 1)
            return None
        keyed_from = kept.keyed_from or (entry.seq if entry.mac else None)
        kept = replace(kept, seq=entry.seq, hash=entry.hash, keyed_from=keyed_from)
    return kept


ANCHOR = Anchor()
