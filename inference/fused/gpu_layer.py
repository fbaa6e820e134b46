"""A decoder layer of few launches: one product for queries, keys and values, one for gate and up.

Weights are not copied twice: the model's own layers become views of the joined ones, so that transformers'
forward stays there as the oracle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from inference.attention.base import AttentionParameters
from inference.attention.triton import TritonAttention
from inference.fused.gpu_products import MakeProduct, Product
from inference.fused.supported import epsilon, layer_window
from inference.kernels.layer import rotate_and_write


@dataclass(frozen=True, slots=True)
class GpuFusedLayer:
    """A decoder layer's joined weights, norms and attention settings."""

    index: int
    input_norm: Any
    post_norm: Any
    qkv: Product  # width -> (num_heads + 2 * num_kv_heads) * head_dim
    o: Product
    gate_up: Product  # width -> 2 * intermediate
    down: Product
    head_norms: tuple[Tensor, Tensor, float] | None  # of queries and keys, where the family has them
    attention_parameters: AttentionParameters


def attend(
    layer: GpuFusedLayer,
    states: Tensor,
    cos: Tensor,
    sin: Tensor,
    attention: TritonAttention,
    *,
    num_heads: int,
) -> Tensor:
    """Rotary embedding, KV write and attention of `qkv`'s outputs: [num_tokens, num_heads * head_dim]."""
    query = rotate_and_write(
        states,
        cos,
        sin,
        keys=attention.cache.keys[layer.index],
        values=attention.cache.values[layer.index],
        slots=attention.slots,
        num_heads=num_heads,
        norms=layer.head_norms,
    )
    out = attention.attend_pool(layer.index, query, layer.attention_parameters)
    return out.view(out.shape[0], -1)


def fuse_gpu_layer(layer: Any, index: int, make_product: MakeProduct) -> GpuFusedLayer:
    """MakeProduct the layer's weights; its own modules then look at parts of the joined ones."""
    attention, mlp = layer.self_attn, layer.mlp
    norms = None
    if hasattr(attention, "q_norm"):
        norms = (attention.q_norm.weight, attention.k_norm.weight, epsilon(attention.q_norm))
    return GpuFusedLayer(
        index=index,
        input_norm=layer.input_layernorm,
        post_norm=layer.post_attention_layernorm,
        qkv=make_product([attention.q_proj, attention.k_proj, attention.v_proj]),
        o=make_product([attention.o_proj]),
        gate_up=make_product([mlp.gate_proj, mlp.up_proj]),
        down=make_product([mlp.down_proj]),
        head_norms=norms,
        attention_parameters=AttentionParameters(attention.scaling, window=layer_window(attention)),
    )
