"""The audit log as JSON lines, every column of every entry: enough to check the chain elsewhere."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from datetime import UTC

from console.audit.models import Entry


def as_lines(entries: Iterable[Entry]) -> Iterator[str]:
    for entry in entries:
        columns = {
            "seq": entry.seq,
            "at": entry.at.astimezone(UTC).isoformat(timespec="microseconds"),
            "actor": entry.actor,
            "ip": entry.ip,
            "action": entry.action,
            "target": entry.target,
            "detail": entry.detail,
            "prev_hash": entry.prev_hash,
            "hash": entry.hash,
        }
        yield json.dumps(columns) + "\n"
