"""The same model with fewer launches, for any batch; a decode step of one token has a way of its own."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from inference.attention.triton import TritonStep
from inference.fused.gpu_layer import FusedLayer, attend, fuse_layer
from inference.fused.gpu_products import Join, Product, in_dtype, join
from inference.fused.gpu_single_token import OneTokenModel
from inference.fused.supported import epsilon
from inference.kernels.layer import (
    add_norm,
    add_norm_quantized,
    quantize,
    silu_mul,
    silu_mul_quantized,
)
from inference.kernels.rows import Rows


class FusedModel:
    """Runs a packed batch through a fused model. Called like the model itself, with a `TritonStep`."""

    def __init__(
        self, model: Any, *, joins: Join | None = None, logits_dtype: torch.dtype | None = None
    ) -> None:
        """`logits_dtype`: None for the model's own."""
        joins = joins or join
        self.model = model
        config = model.config.get_text_config()
        self.num_heads: int = config.num_attention_heads
        self.layers = [fuse_layer(layer, index, joins) for index, layer in enumerate(model.model.layers)]
        head = joins([model.lm_head])
        self.head = head if logits_dtype is None else in_dtype(head, logits_dtype)
        self.norm = model.model.norm
        self._one_token = OneTokenModel.of(self.layers, self.norm, self.head, self.num_heads)

    def __call__(
        self, input_ids: Tensor, position_ids: Tensor, *, logit_rows: Tensor | None, step: TritonStep
    ) -> Tensor:
        """Logits `[num_rows, vocab]` of the tokens [num_tokens] that `logit_rows` names; of all for None."""
        body = self.model.model
        residual = body.embed_tokens(input_ids)
        cos, sin = body.rotary_emb(residual[None], position_ids=position_ids[None])
        cos, sin = cos[0].contiguous(), sin[0].contiguous()
        has_one_row = len(input_ids) == 1 and (logit_rows is None or len(logit_rows) == 1)
        if has_one_row and self._one_token is not None:
            return self._one_token(residual, cos, sin, step)
        x = residual
        for layer in self.layers:
            x = self._attention(layer, x, residual, cos, sin, step)
            x = self._feed_forward(layer, x, residual)
        x = add_norm(x, residual, self.norm.weight, epsilon(self.norm), adds=True)
        return self.head(x if logit_rows is None else x[logit_rows])

    def _attention(
        self, layer: FusedLayer, x: Tensor, residual: Tensor, cos: Tensor, sin: Tensor, step: TritonStep
    ) -> Tensor:
        normed = norm_for(layer.qkv, x, residual, layer.input_norm, adds=layer.index > 0)
        out = attend(layer, layer.qkv(normed), cos, sin, step, num_heads=self.num_heads)
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
