"""Which process a ticket or a job belongs to, and whether it still runs: a file lock that ends with it.

No heartbeat is needed, and a server that was killed is known to be dead at once. Works for servers that
share a DATA_DIR; of servers elsewhere nothing is known (`is_running` says None).
"""

from __future__ import annotations

import fcntl
import os
import uuid
from functools import lru_cache
from pathlib import Path

from django.conf import settings


class Lease:
    """Held for as long as this object lives in this process."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.server = uuid.uuid4().hex
        part = folder / f"{self.server}.part"
        self._file = os.open(part, os.O_CREAT | os.O_RDWR, 0o600)
        fcntl.flock(self._file, fcntl.LOCK_EX)
        part.rename(folder / self.server)  # seen by others only once it is locked

    def release(self) -> None:
        os.close(self._file)


@lru_cache(maxsize=1)
def own_lease() -> Lease:
    """The lease of this process, taken with the first ticket."""
    return Lease(Path(settings.LEASE_DIR))


def is_running(server: str, *, folder: Path | None = None) -> bool | None:
    """Whether a server runs; None when it left no lease here."""
    path = (folder or Path(settings.LEASE_DIR)) / server
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
