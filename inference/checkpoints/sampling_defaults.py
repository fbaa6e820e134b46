"""A model's default sampling parameters, from generation_config.json, for requests that set none.

As in vLLM the values count whether or not the file says `do_sample`; those of a wrong kind or out of the
engine's bounds are left out, one by one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference.protocol.errors import InvalidValue
from inference.protocol.requests import Sampling

NAMES = ("temperature", "top_p", "top_k", "min_p", "repetition_penalty")


def sampling_defaults(generation_config: Mapping[str, Any]) -> dict[str, float]:
    """Defaults by field of `Sampling`; those equal to OpenAI's are left out."""
    found: dict[str, float] = {}
    for name in NAMES:
        value = _sound(name, generation_config.get(name))
        if value is not None and value != getattr(Sampling(), name):
            found[name] = value
    return found


def of_folder(folder: Path) -> dict[str, float]:
    """The sampling defaults of a checked folder; empty where it has none."""
    path = folder / "generation_config.json"
    content = json.loads(path.read_bytes()) if path.is_file() else {}
    return sampling_defaults(content) if isinstance(content, dict) else {}


def _sound(name: str, value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if name == "top_k":
        if value != int(value):
            return None
        value = max(0, int(value))  # -1 means off
    fields: dict[str, Any] = {name: value}
    try:
        Sampling(**fields)
    except InvalidValue:
        return None
    return value
