"""Products of activations with int8 weights: the reference, and what is fastest where it runs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import linear

from inference.quantization import int8_cpu
from inference.quantization.int8_cpu import CpuWeight

# x [..., in], weight int8 [out, in], scale float32 [out, 1] -> [..., out] in the dtype of x
Matmul = Callable[[Tensor, Tensor, Tensor], Tensor]


def dequantized(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """The reference, right on every device: int8 is exact in each float dtype; scales apply after."""
    return linear(x, weight.to(x.dtype)) * scale.squeeze(-1).to(x.dtype)


def on_cuda(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """By kernels that read the weights as int8; float32 activations by dequantizing."""
    from inference.quantization import weight_only_cuda

    kernel = weight_only_cuda.multiply_int8 if x.dtype in weight_only_cuda.DTYPES else dequantized
    return kernel(x, weight, scale)


class FastestMatmul:
    """The fastest product for one layer; on CPUs it keeps the weight in prepared form.

    `rounds`: float32 activations may be rounded on their way, as bfloat16 ones are anyway.
    """

    def __init__(self, *, rounds: bool = False) -> None:
        self.rounds = rounds
        self._of: Tensor | None = None  # the weight that the one below was made from
        self._prepared: CpuWeight | None = None

    def __call__(self, x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
        if x.is_cuda:
            return on_cuda(x, weight, scale)
        is_rounded = x.dtype == torch.bfloat16 or (self.rounds and x.dtype == torch.float32)
        if not is_rounded or x.device.type != "cpu":
            return dequantized(x, weight, scale)
        if self._prepared is None or self._of is not weight:
            self._of, self._prepared = weight, CpuWeight(weight, scale)
        return int8_cpu.fastest(x, self._prepared)
