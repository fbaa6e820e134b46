"""The Triton product of one token with int8 weights: nothing but reading them, so no tensor cores."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference.kernels.tilings import Strip


@triton.jit
def _one_token(
    x, weight, scale, bias, out, num_outputs, num_inputs,
    OUTPUTS: tl.constexpr, INPUTS: tl.constexpr, IS_EVEN: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    rows = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    columns = tl.arange(0, INPUTS)
    weight_at = weight + (rows % num_outputs)[:, None].to(tl.int64) * num_inputs + columns[None, :]
    sums = tl.zeros([OUTPUTS, INPUTS], tl.float32)
    for first in range(0, num_inputs, INPUTS):
        if IS_EVEN:
            numbers = tl.load(weight_at + first)
            values = tl.load(x + first + columns)
        else:
            is_input = first + columns < num_inputs
            numbers = tl.load(weight_at + first, mask=is_input[None, :], other=0)
            values = tl.load(x + first + columns, mask=is_input, other=0.0)
        sums += numbers.to(tl.float32) * values.to(tl.float32)[None, :]
    is_row = rows < num_outputs
    total = tl.sum(sums, 1) * tl.load(scale + rows, mask=is_row, other=0.0)
    if HAS_BIAS:
        total += tl.load(bias + rows, mask=is_row, other=0.0).to(tl.float32)
    tl.store(out + rows, total.to(out.dtype.element_ty), mask=is_row)


def one_token_product(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, strip: Strip) -> Tensor:
    """x [1, in] times int8 [out, in] with float32 scales [out, 1]: [1, out]."""
    num_outputs, num_inputs = weight.shape
    out = torch.empty(1, num_outputs, dtype=x.dtype, device=x.device)
    _one_token[(triton.cdiv(num_outputs, strip.outputs),)](
        x, weight, scale, bias, out, num_outputs, num_inputs, OUTPUTS=strip.outputs, INPUTS=strip.inputs,
        IS_EVEN=num_inputs % strip.inputs == 0, HAS_BIAS=bias is not None, num_warps=strip.warps,
    )  # fmt: skip
    return out
