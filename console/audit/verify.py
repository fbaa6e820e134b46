"""Checks the audit log from its first entry to its last, in one pass and little memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from console.audit import checkpoint
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


def verify(*, checkpoint_path: Path | None = None) -> Verdict:
    """Whether the log is what was written.

    An edited entry no longer has its hash; one deleted, inserted or moved breaks the numbers or the link to
    the hash before. A tail cut off, or a database put back from an older copy, is told by the head row
    and by the signed checkpoint outside the database. Who rewrites all three, with the secret key, is not.
    """
    # Read before the entries: what is appended meanwhile can only make the log longer than these say.
    try:
        kept = checkpoint.load(checkpoint_path)
    except checkpoint.CheckpointForged as error:
        return Verdict(0, 1, str(error))
    head = Head.objects.filter(pk=1).first() or Head()
    seq, last_hash = 0, NO_HASH
    for entry in in_order():
        if problem := problem_of(entry, expected_seq=seq + 1, prev_hash=last_hash):
            return Verdict(seq, seq + 1, problem)
        seq, last_hash = entry.seq, entry.hash
        if head.seq == seq and head.hash != last_hash:
            return Verdict(seq, seq, "it is not the entry that the head of the chain names")
        if kept is not None and kept.seq == seq and kept.hash != last_hash:
            return Verdict(seq, seq, "it is not the entry that the signed checkpoint names")
    if head.seq > seq:
        return Verdict(seq, seq + 1, f"the log was cut off: its head says {head.seq} entries")
    if kept is not None and kept.seq > seq:
        return Verdict(seq, seq + 1, f"the log was cut off: its signed checkpoint says {kept.seq} entries")
    return Verdict(seq)


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
