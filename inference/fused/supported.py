"""Which models can run fused, on GPUs (fuse.py) and on CPUs (fuse_cpu.py), and what both ask of a layer."""

from __future__ import annotations

from typing import Any

from torch import nn

from inference.architectures import FUSED
from inference.quantization.linear import StoredLinear


def can_fuse(model: Any) -> bool:
    """Whether the model is of a family whose layers are known, with plain weights or stored ones."""
    if type(model).__name__ not in FUSED or model.config.hidden_act != "silu":
        return False
    return all(
        len(kinds) == 1 and all(kind is nn.Linear or issubclass(kind, StoredLinear) for kind in kinds)
        for layer in model.model.layers
        for kinds in _kinds_by_input(layer)
    )


def _kinds_by_input(layer: Any) -> list[set[type]]:
    """The classes of a decoder layer's linear layers, those of the same input together."""
    attention, mlp = layer.self_attn, layer.mlp
    together = (
        (attention.q_proj, attention.k_proj, attention.v_proj),
        (attention.o_proj,),
        (mlp.gate_proj, mlp.up_proj),
        (mlp.down_proj,),
    )
    return [{type(linear) for linear in linears} for linears in together]


def layer_window(attention: Any) -> int | None:
    """The sliding window of a layer, as its own forward would pass it on."""
    window: int | None = getattr(attention, "sliding_window", None)
    if window is None and type(attention).__name__ == "MistralAttention":
        window = getattr(attention.config, "sliding_window", None)
    return window


def epsilon(norm: Any) -> float:
    """The epsilon of an RMS norm."""
    return float(norm.variance_epsilon)
