"""INT8 symmetric weight-only quantization, one scale per output channel, as a method of transformers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor

from inference.quantization.int8_matmul import FastestMatmul, Matmul
from inference.quantization.linear import ChannelQuantizedLinear
from inference.quantization.quantizer import register_method

METHOD = "pilothouse_int8"
LARGEST = 127  # symmetric: -128 is not used
SMALLEST_SCALE = 1e-12  # of a channel that is all zeros


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [out, in] -> int8 [out, in] and float32 scale [out, 1], so that weight is about int8 * scale."""
    exact = weight.float()
    scale = (exact.abs().amax(dim=-1, keepdim=True) / LARGEST).clamp_min(SMALLEST_SCALE)
    return torch.round(exact / scale).clamp_(-LARGEST, LARGEST).to(torch.int8), scale


def dequantize(weight: Tensor, scale: Tensor) -> Tensor:
    """int8 weight and scale -> the float32 weight."""
    return weight.float() * scale


class Int8Linear(ChannelQuantizedLinear):
    """A linear layer whose weight is int8. Set `matmul` to choose how it multiplies."""

    WEIGHT_DTYPE = torch.int8

    def __init__(self, in_features: int, out_features: int, **options: Any) -> None:
        super().__init__(in_features, out_features, **options)
        self.matmul: Matmul = FastestMatmul()

    @staticmethod
    def quantize(weight: Tensor) -> dict[str, Tensor]:
        return dict(zip(Int8Linear.PARAMETERS, quantize(weight), strict=True))

    @classmethod
    def joined(cls, linears: Sequence[Any]) -> Self:
        whole = super().joined(linears)
        if isinstance(whole.matmul, FastestMatmul):  # each layer has its own
            whole.matmul = FastestMatmul(rounds=whole.matmul.rounds)
        return whole

    def allow_rounding(self) -> None:
        self.matmul = FastestMatmul(rounds=True)

    def product(self) -> Callable[[Tensor], Tensor]:
        if self.bias is not None or type(self) is not Int8Linear:
            return self.forward
        matmul, weight, scale = self.matmul, self.weight, self.weight_scale
        return lambda x: matmul(x, weight, scale)

    def forward(self, x: Tensor) -> Tensor:
        product = self.matmul(x, self.weight, self.weight_scale)
        return product if self.bias is None else product + self.bias


Int8Config = register_method(METHOD, Int8Linear)
