"""A model with fewer kernel launches, for any batch; decode steps of one token have their own kernels."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from inference.attention.triton import TritonAttention
from inference.fused.gpu_layer import GpuFusedLayer, MakeProduct, Product, attend, fuse_gpu_layer, gpu_product
from inference.fused.gpu_single_token import SingleTokenModel
from inference.fused.supported import epsilon
from inference.kernels.layer import (
    add_norm,
    add_norm_quantized,
    quantize,
    silu_mul,
    silu_mul_quantized,
)
from inference.kernels.rows import Rows


class GpuFusedModel:
    """Runs a packed batch through a fused model. Called as the runner calls it, with a `TritonAttention`."""

    def __init__(self, model: Any, *, make_product: MakeProduct | None = None) -> None:
        make_product = make_product or gpu_product
        self.model = model
        config = model.config.get_text_config()
        self.num_heads: int = config.num_attention_heads
        self.layers = [
            fuse_gpu_layer(layer, index, make_product) for index, layer in enumerate(model.model.layers)
        ]
        self.head = make_product([model.lm_head])
        self.norm = model.model.norm
        self._single_token = SingleTokenModel.of(self.layers, self.norm, self.head, self.num_heads)

    def __call__(
        self,
        input_ids: Tensor,
        position_ids: Tensor,
        *,
        logit_rows: Tensor | None,
        attention: TritonAttention,
    ) -> Tensor:
        """Logits `[num_rows, vocab]` of the tokens [num_tokens] that `logit_rows` names; of all for None."""
        body = self.model.model
        residual = body.embed_tokens(input_ids)
        cos, sin = body.rotary_emb(residual[None], position_ids=position_ids[None])
        cos, sin = cos[0].contiguous(), sin[0].contiguous()
        has_one_row = len(input_ids) == 1 and (logit_rows is None or len(logit_rows) == 1)
        if has_one_row and self._single_token is not None:
            return self._single_token(residual, cos, sin, attention)
        x = residual
        for layer in self.layers:
            x = self._attention(layer, x, residual, cos, sin, attention)
            x = self._feed_forward(layer, x, residual)
        x = add_norm(x, residual, self.norm.weight, epsilon(self.norm), adds=True)
        return self.head(x if logit_rows is None else x[logit_rows])

    def _attention(
        self,
        layer: GpuFusedLayer,
        x: Tensor,
        residual: Tensor,
        cos: Tensor,
        sin: Tensor,
        attention: TritonAttention,
    ) -> Tensor:
        normed = norm_for(layer.qkv, x, residual, layer.input_norm, adds=layer.index > 0)
        out = attend(layer, layer.qkv(normed), cos, sin, attention, num_heads=self.num_heads)
        taken = layer.o.activation_dtype(out.shape[0])
        return layer.o(out if taken is None else quantize(out, taken))

    @staticmethod
    def _feed_forward(layer: GpuFusedLayer, x: Tensor, residual: Tensor) -> Tensor:
        states = layer.gate_up(norm_for(layer.gate_up, x, residual, layer.post_norm, adds=True))
        taken = layer.down.activation_dtype(states.shape[0])
        return layer.down(silu_mul(states) if taken is None else silu_mul_quantized(states, taken))


def norm_for(product: Product, x: Tensor, residual: Tensor, norm: Any, *, adds: bool) -> Rows:
    """The norm of `residual + x`, which becomes the residual, as `product` takes it."""
    taken = product.activation_dtype(x.shape[0])
    if taken is None:
        return add_norm(x, residual, norm.weight, epsilon(norm), adds=adds)
    return add_norm_quantized(x, residual, norm.weight, epsilon(norm), adds=adds, dtype=taken)
