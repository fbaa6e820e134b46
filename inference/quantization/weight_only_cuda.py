"""Products with int8 and int4 weights on NVIDIA GPUs: which kernel, by the number of tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from inference.kernels.dequantize import int4_floats, int8_floats
from inference.kernels.rows import QuantizedRows
from inference.kernels.sums import product
from inference.kernels.tilings import processor_of, tiling_of
from inference.kernels.weight_only import int4_product, int8_product

DTYPES = (torch.bfloat16, torch.float16)  # of the activations, for which there are kernels
MOST_TILED_ROWS = 384  # for more it pays to make the weight floats, once, and leave the product to cuBLAS
SCRATCH_BYTES = 2**29  # of such floats at a time


# All products are in `out_dtype`; None: in the dtype of the activations.


def multiply_int8(x: Tensor, weight: Tensor, scale: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
    """x [..., in] times int8 [out, in] with float32 scales [out, 1]: [..., out]."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    num_outputs, num_inputs = weight.shape
    if len(rows) <= MOST_TILED_ROWS:
        tiling = tiling_of("int8", len(rows), num_outputs, num_inputs, processor_of(x.device))
        found = int8_product(rows, weight, scale, None, tiling, out_dtype)
    else:
        found = _by_cublas(
            rows,
            num_outputs,
            lambda start, end: int8_floats(weight[start:end], scale[start:end], x.dtype),
            out_dtype,
        )
    return found.view(*x.shape[:-1], num_outputs)


def multiply_int8_rows(
    x: QuantizedRows, weight: Tensor, scale: Tensor, out_dtype: torch.dtype | None = None
) -> Tensor:
    """int8 x [tokens, in] times int8 [out, in] with float32 scales [out, 1]: [tokens, out]."""
    num_outputs, num_inputs = weight.shape
    tiling = tiling_of("w8a8", len(x.values), num_outputs, num_inputs, processor_of(weight.device))
    return int8_product(x, weight, scale, None, tiling, out_dtype)


def multiply_int4(x: Tensor, weight: Tensor, scale: Tensor, out_dtype: torch.dtype | None = None) -> Tensor:
    """x [..., in] times packed int4 [out, in / 2] with scales [in / group, out]: [..., out]."""
    rows = x.reshape(-1, x.shape[-1]).contiguous()
    num_outputs = weight.shape[0]
    if len(rows) <= MOST_TILED_ROWS:
        tiling = tiling_of("int4", len(rows), num_outputs, rows.shape[1], processor_of(x.device))
        found = int4_product(rows, weight, scale, None, tiling, out_dtype)
    else:
        found = _by_cublas(
            rows,
            num_outputs,
            lambda start, end: int4_floats(weight[start:end], scale[:, start:end], x.dtype),
            out_dtype,
        )
    return found.view(*x.shape[:-1], num_outputs)


def _by_cublas(
    rows: Tensor,
    num_outputs: int,
    floats: Callable[[int, int], Tensor],
    out_dtype: torch.dtype | None,
) -> Tensor:
    """A product with `floats(start, end)`, the weights of some outputs: as many at once as scratch holds."""
    at_once = max(1, SCRATCH_BYTES // (rows.shape[1] * rows.element_size()))
    if num_outputs <= at_once:
        return product(rows, floats(0, num_outputs), out_dtype)
    out = torch.empty(len(rows), num_outputs, dtype=out_dtype or rows.dtype, device=rows.device)
    for start in range(0, num_outputs, at_once):
        end = min(start + at_once, num_outputs)
        out[:, start:end] = product(rows, floats(start, end), out_dtype)
    return out
