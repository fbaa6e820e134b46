"""The models that the batched engine serves, and those that run as CUDA graphs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import PretrainedConfig

from inference.architectures import BATCHED, WITH_EXPERTS
from inference.models.rotary_length import BY_LENGTH

# Whose frequencies are the same for all tokens, or can be made so (rotary_length.py).
ROPE_TYPES = frozenset({"default", "linear", "llama3", "yarn", *BY_LENGTH})


def why_not_batched(config: PretrainedConfig) -> str:
    """Why the batched engine does not serve a model of this config; "" when it does."""
    architectures = config.architectures or []
    if not architectures:
        return "config.json names no architecture"
    if architectures[0] not in BATCHED:
        return f"{architectures[0]} is not among the batched architectures ({', '.join(sorted(BATCHED))})"
    text_config = config.get_text_config()
    if getattr(text_config, "use_bidirectional_attention", False):
        return "its tokens see what follows them (use_bidirectional_attention)"
    for rope_type in rope_types(text_config):
        if rope_type not in ROPE_TYPES:
            return f"rotary embedding of type {rope_type!r} was not tried in batches"
    return ""


def why_not_captured(
    config: PretrainedConfig, *, dtype: torch.dtype, compute_capability: tuple[int, int]
) -> str:
    """Why decode steps of a batched model cannot become CUDA graphs; "" when they can.

    A grouped product of experts is one kernel in bfloat16 on Hopper and data-centre Blackwell. Elsewhere
    torch (2.11) takes the experts one by one, for which the host waits to learn who got how many tokens.
    """
    if not has_experts(config) or (dtype == torch.bfloat16 and compute_capability[0] in (9, 10)):
        return ""
    return (
        "no CUDA graphs: the host takes the experts one by one, except in bfloat16 on GPUs of compute "
        "capability 9 and 10"
    )


def has_experts(config: PretrainedConfig) -> bool:
    """True for a mixture of experts."""
    return (config.architectures or [""])[0] in WITH_EXPERTS


def rope_types(config: PretrainedConfig) -> Iterator[str]:
    """The kinds of rotary embedding that a config asks for, one for the model or one per kind of layer."""
    parameters: Any = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    nested = [value for value in parameters.values() if isinstance(value, Mapping)]
    for entry in nested or [parameters]:
        yield str(entry.get("rope_type", entry.get("type", "default")))
