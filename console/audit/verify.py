"""Checks the audit log, or an export of it, from its first entry to its last, in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from django.db.models import Subquery

from console.audit.anchor import ANCHOR
from console.audit.chain import NO_HASH, problem_of
from console.audit.checkpoint import BadCheckpoint, Checkpoint
from console.audit.export import NotAnExport, from_lines
from console.audit.models import Entry, Head
from console.audit.queries import last_seq
from console.audit.seal import Seal

NUM_READ = 2000


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the check found. `first_bad` is the number of the first entry that is wrong or missing."""

    num_entries: int
    first_bad: int | None = None
    reason: str = ""

    @property
    def is_intact(self) -> bool:
        return self.first_bad is None


@dataclass(slots=True)
class Claims:
    """What others than the entries say of the log."""

    head: Head = field(default_factory=Head)
    last_seq: int = 0  # when the head was read
    kept: Checkpoint | None = None
    witnesses: tuple[Checkpoint, ...] = ()  # signed checkpoints that were kept elsewhere

    def at(self, seq: int) -> Iterator[tuple[str, str]]:
        """The hashes that the entry should have, each with who says so."""
        if self.head.seq == seq:
            yield self.head.hash, "the head of the chain"
        yield from ((one.hash, "the signed checkpoint") for one in self.checkpoints() if one.seq == seq)

    def checkpoints(self) -> tuple[Checkpoint, ...]:
        return (*((self.kept,) if self.kept else ()), *self.witnesses)


class Pass:
    """A check of the whole log, a stretch at a time, so that it can go on beside other work.

    An edited entry no longer has its hash, or not its code; one deleted, inserted or moved breaks the numbers
    or the link to the hash before. A tail cut off, or a database put back from an older copy, is told by the
    head row and by the signed checkpoint outside the database.
    """

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        kept = claims.kept
        self._keyed_from = kept.keyed_from if kept else None
        self._seal = Seal(kept.base, kept.base_digest) if kept and kept.base > 1 else None
        self.seq = 0  # the last entry that was found right
        self.last_hash: str | None = NO_HASH

    def finish(self) -> Verdict:
        """Check the rest of the log, all of it."""
        while (verdict := self.advance(NUM_READ)) is None:
            pass
        return verdict

    def advance(self, num_entries: int) -> Verdict | None:
        """Check the next stretch; a verdict when the end, or the first wrong entry, is reached."""
        if self._seal is not None:
            return self._look_at_seal(self._seal, num_entries)
        try:
            entries = list(Entry.objects.filter(seq__gt=self.seq).order_by("seq")[:num_entries])
        except (ValueError, OverflowError):  # a column that was overwritten with what it cannot hold
            return Verdict(self.seq, self.seq + 1, "it, or an entry soon after it, cannot be read")
        verdict = self.look_at(entries)
        return verdict or (self.end() if len(entries) < num_entries else None)

    def look_at(self, entries: Iterable[Entry]) -> Verdict | None:
        """The verdict on entries that come next, where something is wrong with them."""
        for entry in entries:
            seq = self.seq + 1
            needs_code = self._keyed_from is not None and seq >= self._keyed_from
            problem = problem_of(entry, expected_seq=seq, prev_hash=self.last_hash, needs_code=needs_code)
            if problem:
                return Verdict(self.seq, seq, problem)
            if self._keyed_from is None and entry.mac:
                self._keyed_from = seq
            self.seq, self.last_hash = seq, entry.hash
            for hash, who in self._claims.at(seq):
                if hash != entry.hash:
                    return Verdict(seq, seq, f"it is not the entry that {who} names")
        return None

    def end(self) -> Verdict:
        seq, head = self.seq, self._claims.head
        if head.seq > seq:
            return Verdict(seq, seq + 1, f"the log was cut off: its head says {head.seq} entries")
        said = max((one.seq for one in self._claims.checkpoints()), default=0)
        if said > seq:
            return Verdict(seq, seq + 1, f"the log was cut off: its signed checkpoint says {said} entries")
        if self._claims.last_seq > head.seq:
            return Verdict(seq, head.seq + 1, f"the head of the chain was moved: it says {head.seq} entries")
        return Verdict(seq)

    def _look_at_seal(self, seal: Seal, num_entries: int) -> Verdict | None:
        """What was broken when somebody cleared the alarm has to be as it was then."""
        if not seal.advance(num_entries):
            return None
        self._seal = None
        if not seal.is_right():
            return Verdict(
                0, 1, f"what stands before entry {seal.base} is not as it was when that was written"
            )
        self.seq, self.last_hash = seal.base - 1, None
        return None


def begin(*, witnesses: Iterable[Checkpoint] = ()) -> Pass:
    """A check of the log that begins now. Raises BadCheckpoint."""
    # The head first: what is appended meanwhile can only make the log, and the checkpoint, longer than it.
    newest = Entry.objects.order_by("-seq").values("seq")[:1]
    head = Head.objects.annotate(last_seq=Subquery(newest)).filter(pk=1).first()
    if head is None:
        return Pass(Claims(Head(), last_seq(), ANCHOR.kept(num_entries=last_seq()), tuple(witnesses)))
    num_entries = head.last_seq or 0
    kept = ANCHOR.kept(num_entries=max(head.seq, num_entries))
    return Pass(Claims(head, num_entries, kept, tuple(witnesses)))


def verify(*, witnesses: Iterable[Checkpoint] = ()) -> Verdict:
    """Whether the log is what was written, and passes through checkpoints that were kept elsewhere."""
    try:
        return begin(witnesses=witnesses).finish()
    except BadCheckpoint as error:
        return Verdict(0, 1, str(error))


def verify_export(lines: Iterable[str]) -> Verdict:
    """Whether an export is a chain from the first entry on, and a beginning of this server's log."""
    check = Pass(Claims())
    try:
        verdict = check.look_at(from_lines(lines)) or check.end()
    except NotAnExport as error:
        return Verdict(check.seq, error.seq, "it is not a line of an export")
    own = Entry.objects.filter(seq=check.seq).first()
    if verdict.is_intact and check.seq and (own is None or own.hash != check.last_hash):
        return Verdict(check.seq, check.seq, "this server's log has another entry there, or none")
    return verdict
