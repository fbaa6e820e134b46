"""FP8 (e4m3): a scale per output channel for the weights, one per token for the activations, as they come."""

from __future__ import annotations

from typing import ClassVar, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from transformers.quantizers import register_quantization_config, register_quantizer

from inference.kernels.rows import QuantizedRows, Rows, quantize_rows
from inference.quantization.linear import QuantizedLinear, frozen
from inference.quantization.quantizer import LinearConfig, LinearQuantizer

METHOD = "pilothouse_fp8"
DTYPE = torch.float8_e4m3fn
LEAST_CAPABILITY = (8, 9)  # of an NVIDIA GPU: Ada, Hopper and later multiply fp8


def reference_product(x: Rows, weight: Tensor, scale: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
    """What the layer computes, in float32 and on every device; slow, as it widens the weight each time."""
    rows = x if isinstance(x, QuantizedRows) else quantize_rows(x, DTYPE)
    return (linear(rows.exact(), weight.float()) * scale.squeeze(-1)).to(out_dtype or rows.dtype)


class Fp8Linear(QuantizedLinear):
    """A linear layer that multiplies in fp8: the weight is kept so, activations are turned into it."""

    PARAMETERS = ("weight", "weight_scale")

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool,
        dtype: torch.dtype,
        weight_dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        super().__init__(in_features, out_features)
        self.weight = frozen(torch.empty(out_features, in_features, dtype=weight_dtype, device=device))
        self.weight_scale = frozen(torch.empty(out_features, 1, dtype=torch.float32, device=device))
        self.bias = frozen(torch.empty(out_features, dtype=dtype, device=device)) if bias else None
        self.counters: Tensor | None = None  # of the kernel that splits a product; made where it first runs

    @classmethod
    def placeholder(cls, linear: nn.Linear, *, is_quantized: bool, device: torch.device) -> Self:
        dtype = linear.weight.dtype
        return cls(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            dtype=dtype,
            device=device,
            weight_dtype=DTYPE if is_quantized else dtype,
        )

    @staticmethod
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        rows = quantize_rows(weight, DTYPE)
        return {"weight": rows.values, "weight_scale": rows.scale}

    def exact_weight(self) -> Tensor:
        return self.weight.float() * self.weight_scale

    def takes(self, num_rows: int) -> torch.dtype | None:
        if not self.weight.is_cuda:
            return None
        from inference.kernels.fp8 import VECTOR_ROWS

        return None if num_rows <= VECTOR_ROWS else DTYPE

    def forward(self, x: Rows) -> Tensor:
        if self.weight.is_cuda:
            product = self._product_on_gpu(x)
        else:
            product = reference_product(x, self.weight, self.weight_scale, self.out_dtype)
        return product if self.bias is None else product + self.bias

    def _product_on_gpu(self, x: Rows) -> Tensor:
        from inference.kernels import fp8 as kernels
        from inference.kernels.layer import quantize

        if isinstance(x, QuantizedRows):
            return kernels.product(x, self.weight, self.weight_scale, self._counters(), self.out_dtype)
        rows = x.reshape(-1, self.in_features).contiguous()
        if self.takes(rows.shape[0]) is None:
            product = kernels.vector_product(rows, self.weight, self.weight_scale, self.out_dtype)
        else:
            quantized = quantize(rows, DTYPE)
            product = kernels.product(
                quantized, self.weight, self.weight_scale, self._counters(), self.out_dtype
            )
        return product.view(*x.shape[:-1], self.out_features)

    def _counters(self) -> Tensor:
        """Zeros between products. The layer's own: models may run side by side, a layer never with itself."""
        from inference.kernels.fp8 import num_counters

        if self.counters is None:
            self.counters = torch.zeros(
                num_counters(self.out_features), dtype=torch.int32, device=self.weight.device
            )
        return self.counters


@register_quantization_config(METHOD)
class Fp8Config(LinearConfig):
    """fp8 weights and activations."""

    METHOD: ClassVar[str] = METHOD


@register_quantizer(METHOD)
class Fp8Quantizer(LinearQuantizer):
    """Puts `Fp8Linear` where linear layers were."""

    LINEAR = Fp8Linear
