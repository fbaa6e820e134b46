"""A decoder layer of few launches: one product for queries, keys and values, one for gate and up.

Weights are not copied twice: the model's own layers become views of the joined ones, so that transformers'
forward stays there as the oracle.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from inference.attention.base import AttentionParameters
from inference.attention.triton import TritonAttention
from inference.fused.supported import epsilon, layer_window
from inference.kernels.layer import rotate_and_write
from inference.kernels.rows import Rows
from inference.quantization.linear import StoredLinear, join_rows


class Product(Protocol):
    """Rows [num_tokens, in] times a weight: [num_tokens, out]. `StoredLinear` is one."""

    def activation_dtype(self, num_rows: int) -> torch.dtype | None:
        """The dtype to which `num_rows` activations are to be quantized, each with its scale; None: as is."""

    def __call__(self, x: Rows) -> Tensor: ...


MakeProduct = Callable[[list[Any]], Product]  # linear layers of the same input -> one product


@dataclass(frozen=True, slots=True)
class PlainProduct:
    """With a float weight."""

    weight: Tensor
    bias: Tensor | None

    def activation_dtype(self, num_rows: int) -> torch.dtype | None:
        return None

    def __call__(self, x: Rows) -> Tensor:
        assert isinstance(x, Tensor)
        return F.linear(x, self.weight, self.bias)


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


def gpu_product(linears: list[Any]) -> Product:
    """One product for several layers of the same input, which become views of its weight and bias."""
    first = linears[0]
    if isinstance(first, StoredLinear):
        return type(first).joined(linears)
    weight = join_rows([linear.weight for linear in linears])
    bias = None if first.bias is None else join_rows([linear.bias for linear in linears])
    return PlainProduct(weight, bias)
