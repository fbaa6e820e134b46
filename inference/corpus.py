"""The texts that revisions are compared on, several kinds of them, and the digest that names their state."""

from __future__ import annotations

import hashlib
from pathlib import Path

FOLDER = Path(__file__).parent / "convert" / "corpus"


def texts() -> dict[str, str]:
    """Kind of text -> text, in order of kind."""
    return {path.stem: path.read_text(encoding="utf-8") for path in _paths()}


def digest() -> str:
    """SHA-256 over names and bytes: figures that were measured on other texts cannot be compared."""
    whole = hashlib.sha256()
    for path in _paths():
        content = path.read_bytes()
        whole.update(f"{path.name} {len(content)}\n".encode())
        whole.update(content)
    return whole.hexdigest()


def _paths() -> list[Path]:
    return sorted(FOLDER.glob("*.txt"))
