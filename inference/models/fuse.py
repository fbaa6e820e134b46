"""The same model with fewer launches: one product for queries, keys and values, one for gate and up.

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

from inference.attention.triton import TritonStep
from inference.kernels.layer import (
    add_norm,
    add_norm_quantized,
    quantize,
    rotate_and_write,
    silu_mul,
    silu_mul_quantized,
)
from inference.kernels.rows import Rows
from inference.models.fusible import can_fuse, epsilon, layer_window
from inference.quantization.linear import QuantizedLinear, join_rows

__all__ = ["FusedModel", "PlainProduct", "can_fuse", "join"]


class Product(Protocol):
    """Rows [num_tokens, in] times a weight: [num_tokens, out]. `QuantizedLinear` is one."""

    def takes(self, num_rows: int) -> torch.dtype | None:
        """The dtype that so many rows should be quantized to, each with its scale; None: as they are."""

    def __call__(self, x: Rows) -> Tensor: ...


Join = Callable[[list[Any]], Product]  # linear layers of the same input -> one product


@dataclass(frozen=True, slots=True)
class PlainProduct:
    """With a float weight."""

    weight: Tensor
    bias: Tensor | None

    def takes(self, num_rows: int) -> torch.dtype | None:
        return None

    def __call__(self, x: Rows) -> Tensor:
        assert isinstance(x, Tensor)
        return F.linear(x, self.weight, self.bias)


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


class FusedModel:
    """Runs a packed batch through a fused model. Called like the model itself, with a `TritonStep`."""

    def __init__(self, model: Any, *, joins: Join | None = None) -> None:
        joins = joins or join
        self.model = model
        config = model.config.get_text_config()
        self.num_heads: int = config.num_attention_heads
        self.layers = [fuse_layer(layer, index, joins) for index, layer in enumerate(model.model.layers)]
        self.head = joins([model.lm_head])

    def __call__(
        self, input_ids: Tensor, position_ids: Tensor, *, logit_rows: Tensor | None, step: TritonStep
    ) -> Tensor:
        """Logits `[num_rows, vocab]` of the tokens [num_tokens] that `logit_rows` names; of all for None."""
        body = self.model.model
        residual = body.embed_tokens(input_ids)
        cos, sin = body.rotary_emb(residual[None], position_ids=position_ids[None])
        cos, sin = cos[0].contiguous(), sin[0].contiguous()
        x = residual
        for layer in self.layers:
            x = self._attention(layer, x, residual, cos, sin, step)
            x = self._feed_forward(layer, x, residual)
        x = add_norm(x, residual, body.norm.weight, epsilon(body.norm), adds=True)
        return self.head(x if logit_rows is None else x[logit_rows])

    def _attention(
        self, layer: FusedLayer, x: Tensor, residual: Tensor, cos: Tensor, sin: Tensor, step: TritonStep
    ) -> Tensor:
        normed = norm_for(layer.qkv, x, residual, layer.input_norm, adds=layer.index > 0)
        query = rotate_and_write(
            layer.qkv(normed),
            cos,
            sin,
            keys=step.cache.keys[layer.index],
            values=step.cache.values[layer.index],
            slots=step.slots,
            num_heads=self.num_heads,
            norms=layer.head_norms,
        )
        out = step.attend_pool(layer.index, query, scaling=layer.scaling, window=layer.window, softcap=None)
        out = out.view(out.shape[0], -1)
        taken = layer.o.takes(out.shape[0])
        return layer.o(out if taken is None else quantize(out, taken))

    @staticmethod
    def _feed_forward(layer: FusedLayer, x: Tensor, residual: Tensor) -> Tensor:
        states = layer.gate_up(norm_for(layer.gate_up, x, residual, layer.post_norm, adds=True))
        taken = layer.down.takes(states.shape[0])
        return layer.down(silu_mul(states) if taken is None else silu_mul_quantized(states, taken))


def norm_for(product: Product, x: Tensor, residual: Tensor, norm: Any, *, adds: bool) -> Rows:
    """The norm of `residual + x`, which becomes the residual, as `product` takes it."""
    taken = product.takes(x.shape[0])
    if taken is None:
        return add_norm(x, residual, norm.weight, epsilon(norm), adds=adds)
    return add_norm_quantized(x, residual, norm.weight, epsilon(norm), adds=adds, dtype=taken)


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


def join(linears: list[Any]) -> Product:
    """One product for several layers of the same input, which become views of its weight and bias."""
    first = linears[0]
    if isinstance(first, QuantizedLinear):
        return type(first).joined(linears)
    weight = join_rows([linear.weight for linear in linears])
    bias = None if first.bias is None else join_rows([linear.bias for linear in linears])
    return PlainProduct(weight, bias)
