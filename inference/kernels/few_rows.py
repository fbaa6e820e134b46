"""A float product of few rows: the weights are the left operand, so that they fill the tensor cores.

Up to 64 rows a product takes the time that reading its weights takes; cuBLAS leaves a fifth to two fifths of
that on the narrower layers of a decoder.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MAX_ROWS = 64
# Outputs and depth of a tile, stages: the quickest of `python -m tests.gpu.sweep_few_rows` on one H200.
SHAPE = {"OUTPUTS": 32, "DEPTH": 256, "num_warps": 4, "num_stages": 4}


@triton.jit(do_not_specialize=["num_rows"])
def _few_rows(
    x, weight, bias, out, num_rows, num_outputs, x_stride, WIDTH: tl.constexpr, ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr, DEPTH: tl.constexpr, HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Some outputs of all rows."""
    output = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    row, depth = tl.arange(0, ROWS), tl.arange(0, DEPTH)
    is_output, is_row = output < num_outputs, row < num_rows
    w_place = weight + tl.where(is_output, output, 0).to(tl.int64)[:, None] * WIDTH + depth[None, :]
    x_place = x + tl.where(is_row, row, 0)[None, :] * x_stride + depth[:, None]
    total = tl.zeros([OUTPUTS, ROWS], tl.float32)
    for first in range(0, WIDTH, DEPTH):
        if WIDTH % DEPTH == 0:
            w = tl.load(w_place + first, eviction_policy="evict_first")
            states = tl.load(x_place + first)
        else:
            w = tl.load(w_place + first, mask=(first + depth < WIDTH)[None, :], other=0.0)
            states = tl.load(x_place + first, mask=(first + depth < WIDTH)[:, None], other=0.0)
        total = tl.dot(w, states, total, input_precision=PRECISION)
    if HAS_BIAS:
        total += tl.load(bias + output, mask=is_output, other=0.0).to(tl.float32)[:, None]
    place = out + row[None, :].to(tl.int64) * num_outputs + output[:, None]
    tl.store(place, total.to(out.dtype.element_ty), mask=is_output[:, None] & is_row[None, :])


def few_rows(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Rows `[num_rows, width]`, at most MAX_ROWS, times a weight `[num_outputs, width]`, plus a bias."""
    num_rows, width = x.shape
    num_outputs = weight.shape[0]
    out = torch.empty(num_rows, num_outputs, dtype=x.dtype, device=x.device)
    _few_rows[(triton.cdiv(num_outputs, SHAPE["OUTPUTS"]),)](
        x, weight, weight if bias is None else bias, out, num_rows, num_outputs, x.stride(0), WIDTH=width,
        ROWS=max(16, triton.next_power_of_2(num_rows)), HAS_BIAS=bias is not None,
        PRECISION="ieee" if x.dtype == torch.float32 else "tf32", **SHAPE,
    )  # fmt: skip
    return out
