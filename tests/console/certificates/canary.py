"""A pickle that leaves a file where it is read: whether anything of a hostile model was run."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

CANARY = Path(tempfile.gettempdir()) / f"pilothouse-canary-{os.getpid()}"
_COMMAND = f"touch {CANARY}".encode()
PICKLE = b"cposix\nsystem\n(S'" + _COMMAND + b"'\ntR."
