"""Checks the audit log, or an export of it, from its first entry to its last, in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from console.audit import checkpoint
from console.audit.export import NotAnExport, from_lines
from console.audit.models import Entry, Head
from console.audit.write import hash_of

NO_HASH = "0" * 64


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the check found. `first_bad` is the number of the first entry that is wrong or missing."""

    num_entries: int
    first_bad: int | None = None
    reason: str = ""

    @property
    def is_intact(self) -> bool:
        return self.first_bad is None


class Pass:
    """A check of the whole log, a stretch at a time, so that it can go on beside other work.

    An edited entry no longer has its hash; one deleted, inserted or moved breaks the numbers or the link to
    the hash before. A tail cut off, or a database put back from an older copy, is told by the head row
    and by the signed checkpoint outside the database. Who rewrites all three, with the secret key, is not.
    """

    def __init__(self, *, head: Head, kept: checkpoint.Checkpoint | None) -> None:
        self._head, self._kept = head, kept
        self.seq, self.last_hash = 0, NO_HASH  # the last entry that was found right

    def finish(self, entries: Iterable[Entry]) -> Verdict:
        """Check the rest of the log, all of it."""
        return self.look_at(entries) or self._end()

    def advance(self, num_entries: int) -> Verdict | None:
        """Check the next stretch; a verdict when the end, or the first wrong entry, is reached."""
        entries = list(Entry.objects.filter(seq__gt=self.seq).order_by("seq")[:num_entries])
        verdict = self.look_at(entries)
        return verdict or (self._end() if len(entries) < num_entries else None)

    def look_at(self, entries: Iterable[Entry]) -> Verdict | None:
        """The verdict on entries that come next, where something is wrong with them."""
        for entry in entries:
            seq = self.seq + 1
            if problem := problem_of(entry, expected_seq=seq, prev_hash=self.last_hash):
                return Verdict(self.seq, seq, problem)
            self.seq, self.last_hash = seq, entry.hash
            if self._head.seq == seq and self._head.hash != self.last_hash:
                return Verdict(seq, seq, "it is not the entry that the head of the chain names")
            if self._kept is not None and self._kept.seq == seq and self._kept.hash != self.last_hash:
                return Verdict(seq, seq, "it is not the entry that the signed checkpoint names")
        return None

    def _end(self) -> Verdict:
        seq = self.seq
        if self._head.seq > seq:
            return Verdict(seq, seq + 1, f"the log was cut off: its head says {self._head.seq} entries")
        if self._kept is not None and self._kept.seq > seq:
            said = self._kept.seq
            return Verdict(seq, seq + 1, f"the log was cut off: its signed checkpoint says {said} entries")
        return Verdict(seq)


def begin(*, checkpoint_path: Path | None = None) -> Pass:
    """A check of the log that begins now. Raises CheckpointForged."""
    # Read before the entries: what is appended meanwhile can only make the log longer than these say.
    kept = checkpoint.load(checkpoint_path)
    return Pass(head=Head.objects.filter(pk=1).first() or Head(), kept=kept)


def verify(*, checkpoint_path: Path | None = None) -> Verdict:
    """Whether the log is what was written."""
    try:
        return begin(checkpoint_path=checkpoint_path).finish(in_order())
    except checkpoint.CheckpointForged as error:
        return Verdict(0, 1, str(error))


def verify_export(lines: Iterable[str]) -> Verdict:
    """Whether an export is a chain from the first entry on, and a beginning of this server's log."""
    check = Pass(head=Head(), kept=None)
    try:
        verdict = check.finish(from_lines(lines))
    except NotAnExport as error:
        return Verdict(check.seq, error.seq, "it is not a line of an export")
    own = Entry.objects.filter(seq=check.seq).first()
    if verdict.is_intact and check.seq and (own is None or own.hash != check.last_hash):
        return Verdict(check.seq, check.seq, "this server's log has another entry there, or none")
    return verdict


def in_order() -> Iterator[Entry]:
    return Entry.objects.order_by("seq").iterator(chunk_size=2000)


def problem_of(entry: Entry, *, expected_seq: int, prev_hash: str) -> str:
    """What is wrong with an entry in this place; empty for nothing."""
    if entry.seq != expected_seq:
        return f"it is missing: entry {entry.seq} follows"
    if entry.prev_hash != prev_hash:
        return "it does not follow from the entry before"
    if entry.hash != hash_of(entry):
        return "its content does not fit its hash"
    return ""
