"""Rows of activations in 8 bits, each with a scale of its own: what a product of quantized inputs takes.

Here is what they mean, in plain torch; kernels/layer.py makes them on a GPU beside other work.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

LARGEST = {torch.float8_e4m3fn: 448.0, torch.int8: 127.0}  # symmetric: int8's -128 is not used
SMALLEST_SCALE = 1e-12  # of a row that is all zeros


@dataclass(frozen=True, slots=True)
class QuantizedRows:
    """`values * scale` is about what the rows were. The reference may have more dimensions in front."""

    values: Tensor  # [num_rows, width], one of the dtypes of LARGEST
    scale: Tensor  # [num_rows, 1], float32
    dtype: torch.dtype  # of what the rows were, and of what is computed from them

    def exact(self) -> Tensor:
        """The float32 rows that these stand for."""
        return self.values.float() * self.scale


Rows = Tensor | QuantizedRows  # [num_rows, width]


def saturated(x: Tensor, dtype: torch.dtype) -> Tensor:
    """`x` in 8 bits: what is too large becomes the largest; a NaN stays one where the dtype has it."""
    limited = x.float().clamp(-LARGEST[dtype], LARGEST[dtype])
    return (limited if dtype.is_floating_point else limited.round()).to(dtype)


def quantize_rows(x: Tensor, dtype: torch.dtype) -> QuantizedRows:
    """The reference: each row's largest value becomes the dtype's largest."""
    exact = x.float()
    scale = (exact.abs().amax(dim=-1, keepdim=True) / LARGEST[dtype]).clamp_min(SMALLEST_SCALE)
    return QuantizedRows(saturated(exact / scale, dtype), scale, x.dtype)
