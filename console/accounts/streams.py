"""Ends what runs for a person or a key that has just been shut out."""

from __future__ import annotations

import inference.client


def end_streams(owner: str) -> None:
    """Abort what runs for an owner in this process, if it has an engine."""
    try:
        engine = inference.client.current()
    except RuntimeError:
        return
    engine.abort_owner(owner)
