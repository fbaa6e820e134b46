"""FP8 (e4m3): a scale per output channel for the weights, one per token for the activations, as they come."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear

from inference.kernels.rows import QuantizedRows, Rows, quantize_rows
from inference.quantization.linear import ChannelQuantizedLinear
from inference.quantization.quantizer import register_method

METHOD = "pilothouse_fp8"
DTYPE = torch.float8_e4m3fn
LEAST_CAPABILITY = (8, 9)  # of an NVIDIA GPU: Ada, Hopper and later multiply fp8


def reference_product(x: Rows, weight: Tensor, scale: Tensor) -> Tensor:
    """The layer's product in float32, on every device; slow, as it widens the weight each time."""
    rows = x if isinstance(x, QuantizedRows) else quantize_rows(x, DTYPE)
    return (linear(rows.exact(), weight.float()) * scale.squeeze(-1)).to(rows.dtype)


class Fp8Linear(ChannelQuantizedLinear):
    """A linear layer with an fp8 weight and dynamic per-token fp8 activations."""

    WEIGHT_DTYPE = DTYPE

    def __init__(self, in_features: int, out_features: int, **options: Any) -> None:
        super().__init__(in_features, out_features, **options)
        self.counters: Tensor | None = None  # of the kernel that splits a product; made where it first runs

    @staticmethod
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        rows = quantize_rows(weight, DTYPE)
        return {"weight": rows.values, "weight_scale": rows.scale}

    def activation_dtype(self, num_rows: int) -> torch.dtype | None:
        if not self.weight.is_cuda:
            return None
        from inference.kernels.fp8 import VECTOR_ROWS

        return None if num_rows <= VECTOR_ROWS else DTYPE

    def forward(self, x: Rows) -> Tensor:
        if self.weight.is_cuda:
            product = self._product_on_gpu(x)
        else:
            product = reference_product(x, self.weight, self.weight_scale)
        return product if self.bias is None else product + self.bias

    def _product_on_gpu(self, x: Rows) -> Tensor:
        from inference.kernels import fp8 as kernels
        from inference.kernels.layer import quantize

        if isinstance(x, QuantizedRows):
            return kernels.product(x, self.weight, self.weight_scale, self._counters())
        rows = x.reshape(-1, self.in_features).contiguous()
        if self.activation_dtype(rows.shape[0]) is None:
            product = kernels.vector_product(rows, self.weight, self.weight_scale)
        else:
            quantized = quantize(rows, DTYPE)
            product = kernels.product(quantized, self.weight, self.weight_scale, self._counters())
        return product.view(*x.shape[:-1], self.out_features)

    def _counters(self) -> Tensor:
        """Zeros between products. The layer's own: models may run side by side, a layer never with itself."""
        from inference.kernels.fp8 import num_counters

        if self.counters is None:
            self.counters = torch.zeros(
                num_counters(self.out_features), dtype=torch.int32, device=self.weight.device
            )
        return self.counters


Fp8Config = register_method(METHOD, Fp8Linear)
