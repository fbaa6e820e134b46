"""A product whose sums, which are added up in float32 anyway, need not be rounded to 16 bits."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import linear


def product(x: Tensor, weight: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
    """x [rows, in] times weight [out, in]: [rows, out] in `out_dtype`; None: in the dtype of x."""
    if out_dtype in (None, x.dtype):
        return linear(x, weight)
    if x.is_cuda:
        return torch.mm(x, weight.t(), out_dtype=out_dtype)
    return linear(x.to(out_dtype), weight.to(out_dtype))
