"""The engine settings in play for a revision."""

from __future__ import annotations

from typing import Any

from console.catalog.models import Revision
from console.environment import environment


def in_play(revision: Revision) -> dict[str, Any]:
    """The revision's own settings over those of the environment.

    A quantized head that the environment asks for is of use where layers are quantized while loading: other
    revisions go without, and are not refused.
    """
    chosen = {**environment().engine_settings(), **revision.engine}
    is_quantized_on_load = chosen["quantization"] and not revision.facts.get("quantization")
    if not is_quantized_on_load and "quantize_head" not in revision.engine:
        chosen["quantize_head"] = False
    return chosen
