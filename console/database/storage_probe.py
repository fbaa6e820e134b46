"""Whether what must be durable can be written: tried now and then, on the database and on DATA_DIR's disk."""

from __future__ import annotations

import threading
import time
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TooLate
from pathlib import Path
from tempfile import TemporaryFile

from django.conf import settings
from django.contrib.contenttypes.models import ContentType
from django.db import Error, connection
from django.db.models import F

from console.database.group_commit import PATIENCE_SECONDS, STUCK, Closed, ledger

FRESH_SECONDS = 5.0  # a trial costs an fsync
FRESH_IN_TROUBLE_SECONDS = 1.0
NUM_BYTES = 65536  # more than a small file's inode could hold, so that the disk is asked for room


class Storage:
    """The last trial's outcome, and the next trial when that is old."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._reason: str | None = None
        self._tried_at = float("-inf")
        self._trial: Future[int] | None = None  # which still waits for the database

    def why_not(self) -> str | None:
        """Why nothing can be written; None while it can. Takes a moment where the last trial is old."""
        with self._lock:
            fresh = FRESH_SECONDS if self._reason is None else FRESH_IN_TROUBLE_SECONDS
            if time.monotonic() - self._tried_at > fresh:
                self._reason = _disk_trouble() or self._database_trouble()
                self._tried_at = time.monotonic()
        return self.seen()

    def seen(self) -> str | None:
        """The same, of what is known already."""
        return ledger().trouble() or self._reason

    def _database_trouble(self) -> str | None:
        """One row is written, by the thread that writes all others."""
        try:
            if self._trial is None or self._trial.done():
                self._trial = ledger().submit(_write)
            self._trial.result(PATIENCE_SECONDS)
        except TooLate:
            return STUCK
        except (Error, Closed) as error:
            return str(error)
        return None


def _write() -> int:
    """A row that every installation has, as it is."""
    first = ContentType.objects.order_by("pk").values("pk")[:1]
    return ContentType.objects.filter(pk__in=first).update(model=F("model"))


def _disk_trouble() -> str | None:
    """A database may find room in its own files for a while; a new file finds out."""
    folders = {Path(settings.DATA_DIR)}
    if connection.vendor == "sqlite":
        folders.add(Path(connection.settings_dict["NAME"]).parent)
    for folder in folders:
        try:
            with TemporaryFile(dir=folder, buffering=0) as file:
                file.write(b"\0" * NUM_BYTES)
        except OSError as error:
            return f"{folder} takes no file: {error.strerror}"
    return None


STORAGE = Storage()
