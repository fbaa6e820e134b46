"""A decoder layer of few launches: one product for queries, keys and values, one for gate and up.

Weights are not copied twice: the model's own layers become views of the joined ones, so that transformers'
forward stays there as the oracle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from inference.attention.triton import TritonStep
from inference.fused.gpu_products import Join, Product
from inference.fused.supported import epsilon, layer_window
from inference.kernels.layer import rotate_and_write


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """What one decoder layer computes with."""

    index: int
    input_norm: Any
    post_norm: Any
    qkv: Product  # width -> (num_heads + 2 * num_kv_heads) * head_dim
    o: Product
    gate_up: Product  # width -> 2 * intermediate
    down: Product
    head_norms: tuple[Tensor, Tensor, float] | None  # of queries and keys, where the family has them
    scaling: float
    window: int | None


def attend(
    layer: FusedLayer, states: Tensor, cos: Tensor, sin: Tensor, step: TritonStep, *, num_heads: int
) -> Tensor:
    """Attention of what `qkv` gave, whose keys and values go into the pool: [num_tokens, in of `o`]."""
    query = rotate_and_write(
        states,
        cos,
        sin,
        keys=step.cache.keys[layer.index],
        values=step.cache.values[layer.index],
        slots=step.slots,
        num_heads=num_heads,
        norms=layer.head_norms,
    )
    out = step.attend_pool(layer.index, query, scaling=layer.scaling, window=layer.window, softcap=None)
    return out.view(out.shape[0], -1)


def fuse_layer(layer: Any, index: int, joins: Join) -> FusedLayer:
    """Join the layer's weights; its own modules then look at parts of the joined ones."""
    attention, mlp = layer.self_attn, layer.mlp
    norms = None
    if hasattr(attention, "q_norm"):
        norms = (attention.q_norm.weight, attention.k_norm.weight, epsilon(attention.q_norm))
    return FusedLayer(
        index=index,
        input_norm=layer.input_layernorm,
        post_norm=layer.post_attention_layernorm,
        qkv=joins([attention.q_proj, attention.k_proj, attention.v_proj]),
        o=joins([attention.o_proj]),
        gate_up=joins([mlp.gate_proj, mlp.up_proj]),
        down=joins([mlp.down_proj]),
        head_norms=norms,
        scaling=attention.scaling,
        window=layer_window(attention),
    )
