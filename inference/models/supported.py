"""Which architectures the batched engine serves: those that a golden test compares with `generate`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from transformers import PretrainedConfig

SUPPORTED = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})

# The others choose their frequencies by the longest sequence of the whole packed batch, so that
# neighbours would change each other's output.
ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn"})


def why_not_batched(config: PretrainedConfig) -> str:
    """Why the batched engine does not serve a model of this config; "" when it does."""
    architectures = config.architectures or []
    if not architectures:
        return "config.json names no architecture"
    if architectures[0] not in SUPPORTED:
        return f"{architectures[0]} is not among the batched architectures ({', '.join(sorted(SUPPORTED))})"
    for rope_type in rope_types(config):
        if rope_type not in ROPE_TYPES:
            return f"rotary embedding of type {rope_type!r} depends on the other sequences of a batch"
    return ""


def rope_types(config: PretrainedConfig) -> Iterator[str]:
    """The kinds of rotary embedding that a config asks for, one for the model or one per kind of layer."""
    parameters: Any = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, Mapping)]
    for entry in nested or [parameters]:
        yield str(entry.get("rope_type", entry.get("type", "default")))
