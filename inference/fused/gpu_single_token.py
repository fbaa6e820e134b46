"""A decode step of one sequence in few launches: norms, residuals and the gate go with the products."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from torch import Tensor

from inference.attention.triton import TritonAttention
from inference.fused.gpu_layer import GpuFusedLayer, PlainProduct, Product, attend
from inference.fused.supported import epsilon
from inference.kernels.single_token import DTYPES, Norm, single_token_product


@dataclass(frozen=True, slots=True)
class SingleTokenLayer:
    """A fused layer with float weights, for steps of one token."""

    fused: GpuFusedLayer
    input_norm: Norm
    post_norm: Norm
    qkv: PlainProduct
    o: PlainProduct
    gate_up: PlainProduct
    down: PlainProduct


class SingleTokenModel:
    """The layers, the last norm and the head of a fused model."""

    def __init__(
        self, layers: Sequence[SingleTokenLayer], norm: Norm, head: PlainProduct, num_heads: int
    ) -> None:
        self._layers = layers
        self._norm = norm
        self._head = head
        self._num_heads = num_heads

    @classmethod
    def of(cls, layers: Sequence[GpuFusedLayer], norm: Any, head: Product, num_heads: int) -> Self | None:
        """None where a weight is not of floats for which there is a kernel."""
        own = [own for own in map(layer_of, layers) if own]
        own_head = plain(head)
        if own_head is None or len(own) < len(layers):
            return None
        return cls(own, norm_of(norm), own_head, num_heads)

    def __call__(self, residual: Tensor, cos: Tensor, sin: Tensor, attention: TritonAttention) -> Tensor:
        """Logits [1, vocab] after an embedded token [1, width], which is overwritten."""
        for layer in self._layers:
            self._attention(layer, residual, cos, sin, attention)
            gate_up, down = layer.gate_up, layer.down
            gated = single_token_product(
                residual, gate_up.weight, gate_up.bias, norm=layer.post_norm, gates=True
            )
            single_token_product(gated, down.weight, down.bias, residual=residual)
        return single_token_product(residual, self._head.weight, self._head.bias, norm=self._norm)

    def _attention(
        self, layer: SingleTokenLayer, residual: Tensor, cos: Tensor, sin: Tensor, attention: TritonAttention
    ) -> None:
        qkv, o = layer.qkv, layer.o
        states = single_token_product(residual, qkv.weight, qkv.bias, norm=layer.input_norm)
        out = attend(layer.fused, states, cos, sin, attention, num_heads=self._num_heads)
        single_token_product(out, o.weight, o.bias, residual=residual)


def layer_of(fused: GpuFusedLayer) -> SingleTokenLayer | None:
    """None where a weight has no such kernel."""
    qkv, o, gate_up, down = plain(fused.qkv), plain(fused.o), plain(fused.gate_up), plain(fused.down)
    if qkv is None or o is None or gate_up is None or down is None:
        return None
    return SingleTokenLayer(fused, norm_of(fused.input_norm), norm_of(fused.post_norm), qkv, o, gate_up, down)


def plain(product: Product) -> PlainProduct | None:
    """The product itself, if the single-token kernel can read its weight; else None."""
    if not isinstance(product, PlainProduct) or product.weight.dtype not in DTYPES:
        return None
    return product if product.weight.is_contiguous() else None


def norm_of(norm: Any) -> Norm:
    return Norm(norm.weight, epsilon(norm))
