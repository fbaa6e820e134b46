"""What lies on the disk is for the serving account alone: database, secrets, checkpoints, models.

New files are made so by the umask of `manage.py` and `console.asgi`; old ones are looked at before serving.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

logger = logging.getLogger(__name__)

OF_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class OpenToOthers(Exception):
    """Other accounts may read what they must not, and we cannot change that; the message says what to do."""


def close_to_others(paths: Iterable[Path], *, say: Callable[[str], None]) -> None:
    """Take every right of others away from what is there. OpenToOthers: that is not ours to do."""
    for path in paths:
        if not path.exists() or not stat.S_IMODE(path.stat().st_mode) & OF_OTHERS:
            continue
        mode = stat.S_IMODE(path.stat().st_mode)
        with suppress(PermissionError):
            path.chmod(mode & ~OF_OTHERS)
        left = stat.S_IMODE(path.stat().st_mode)
        if left & stat.S_IRWXO:
            raise OpenToOthers(
                f"{path} can be read by other accounts of this machine ({left:04o}), and cannot be closed: "
                f"give it to the account that serves, or let DATA_DIR be a folder inside of it."
            )
        if left & OF_OTHERS:
            logger.warning("%s can be read by its group (%04o), which is not ours to change", path, left)
        else:
            say(f"{path} could be read by other accounts ({mode:04o}): closed to them.")


def private_paths(data_dir: Path, database: str) -> Iterator[Path]:
    """The folder, what lies in it, and an SQLite database wherever that is."""
    yield data_dir
    yield from (path for path in sorted(data_dir.iterdir()) if path.is_file())
    if Path(database).is_absolute() and Path(database).parent != data_dir:
        yield from (Path(database + ending) for ending in ("", "-wal", "-shm"))
