"""One process serves from a data directory: two would plan the same memory twice."""

from __future__ import annotations

import fcntl
import threading
from pathlib import Path
from typing import IO

ALREADY_TAKEN = (
    "another process serves from {folder}: "
    "run one web process per engine, and give a second one its own DATA_DIR"
)


class DataDirLock:
    """The kernel gives it up when the process ends, however it ends."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._file: IO[str] | None = None
        self._mutex = threading.Lock()

    @property
    def is_held(self) -> bool:
        return self._file is not None

    def take(self) -> None:
        """Idempotent. Raises `RuntimeError` where another process holds it."""
        with self._mutex:
            if self._file is None:
                self._file = self._locked()

    def release(self) -> None:
        with self._mutex:
            if self._file is not None:
                self._file.close()
                self._file = None

    def _locked(self) -> IO[str]:
        self._folder.mkdir(parents=True, exist_ok=True)
        file = (self._folder / "engine.lock").open("w")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            file.close()
            raise RuntimeError(ALREADY_TAKEN.format(folder=self._folder)) from error
        return file
