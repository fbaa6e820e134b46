"""A digest of the entries before one of them, exactly as they stand.

What was broken once, and seen by a person, cannot be changed further.
"""

from __future__ import annotations

import hashlib
import hmac
import json

from django.db.models import TextField
from django.db.models.functions import Cast

from console.audit.models import Entry

NUM_READ = 2000


class Seal:
    """Reads the entries before `base` in stretches; columns as text: one may hold what it should not."""

    def __init__(self, base: int, digest: str) -> None:
        self.base, self._expected = base, digest
        self._seq, self._sum = -(2**62), hashlib.sha256()

    def advance(self, num_entries: int) -> bool:
        """Read on; True at the end."""
        columns = [
            Cast(name, TextField())
            for name in ("at", "actor", "ip", "action", "target", "detail", "prev_hash", "hash", "mac")
        ]
        entries = Entry.objects.filter(seq__gt=self._seq, seq__lt=self.base).order_by("seq")
        rows = list(entries.values_list("seq", *columns)[:num_entries])
        for row in rows:
            self._sum.update(json.dumps(row, separators=(",", ":")).encode())
        if rows:
            self._seq = rows[-1][0]
        return len(rows) < num_entries

    def digest(self) -> str:
        return self._sum.hexdigest()

    def is_right(self) -> bool:
        return hmac.compare_digest(self.digest(), self._expected)


def digest_before(base: int) -> str:
    """The digest of all entries with a smaller number, as they stand now."""
    seal = Seal(base, "")
    while not seal.advance(NUM_READ):
        pass
    return seal.digest()
