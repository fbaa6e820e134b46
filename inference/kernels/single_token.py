"""A Triton product of one token with a float weight, and what a layer does around it in the same launch.

One token's products only read weights: a launch more, or a pause between two, costs as much as a matrix. So
each program takes a few outputs and all inputs, norms the inputs itself, and adds the residual or gates what
it has. Its first weights are on their way before the kernel ahead has ended: they depend on no kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference.kernels.launch import pdl_arguments, wait_for_predecessor

DTYPES = (torch.bfloat16, torch.float16)
NUMBERS_PER_LOAD = 8  # of a thread: 16 bytes
WARP = 32


@dataclass(frozen=True, slots=True)
class Norm:
    """An RMS norm of the token."""

    weight: Tensor  # [in]
    epsilon: float


@dataclass(frozen=True, slots=True)
class Shape:
    """The outputs and warps of a program."""

    outputs: int
    warps: int


# For weights of few and of many outputs: the quickest in tests/gpu/sweeps/single_token.py on one H200.
BEST = Shape(4, 4)


@triton.jit
def _normed(x, factor, norm, places, mask, DTYPE: tl.constexpr, NORMS: tl.constexpr):
    """The token's values at `places`, float32; rounded where a norm of its own would round them."""
    value = tl.load(x + places, mask=mask, other=0.0).to(tl.float32)
    if NORMS:
        value = (value * factor).to(DTYPE)
        value = (value * tl.load(norm + places, mask=mask, other=0.0)).to(DTYPE).to(tl.float32)
    return value


@triton.jit
def _single_token(
    x, norm, weight, bias, residual, out, epsilon, num_outputs, WIDTH: tl.constexpr,
    WIDTH_TILE: tl.constexpr, ROWS: tl.constexpr, CHUNK: tl.constexpr, NORMS: tl.constexpr,
    ADDS: tl.constexpr, GATES: tl.constexpr, HAS_BIAS: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """ROWS rows of the weight. GATES: every other one a gate, the one after it what that lets through."""
    DTYPE: tl.constexpr = x.dtype.element_ty
    OUT: tl.constexpr = out.dtype.element_ty
    index = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    is_row = index < (2 * num_outputs if GATES else num_outputs)
    row = tl.where(is_row, index // 2 + index % 2 * num_outputs if GATES else index, 0)
    row_at = weight + row[:, None].to(tl.int64) * WIDTH
    column = tl.arange(0, CHUNK)
    numbers = tl.load(row_at + column[None, :], mask=(column < WIDTH)[None, :], other=0.0)
    wait_for_predecessor(PDL)
    factor = 1.0
    if NORMS:
        whole = tl.arange(0, WIDTH_TILE)
        value = tl.load(x + whole, mask=whole < WIDTH, other=0.0).to(tl.float32)
        factor = tl.rsqrt(tl.sum(value * value, 0) / WIDTH + epsilon)
    sums = tl.zeros([ROWS, CHUNK], tl.float32)
    for first in tl.static_range(0, WIDTH, CHUNK):
        places = first + column
        if first > 0:
            numbers = tl.load(row_at + places[None, :], mask=(places < WIDTH)[None, :], other=0.0)
        values = _normed(x, factor, norm, places, places < WIDTH, DTYPE, NORMS)
        sums += numbers.to(tl.float32) * values[None, :]
    total = tl.sum(sums, 1)
    if HAS_BIAS:
        total += tl.load(bias + row).to(tl.float32)
    total = total.to(OUT).to(tl.float32)
    if GATES:
        gate, up = tl.split(tl.reshape(total, [ROWS // 2, 2]))
        activated = (gate * tl.sigmoid(gate)).to(DTYPE).to(tl.float32)
        gated = tl.program_id(0) * (ROWS // 2) + tl.arange(0, ROWS // 2)
        tl.store(out + gated, (activated * up).to(DTYPE), mask=gated < num_outputs)
    else:
        if ADDS:
            total += tl.load(residual + index, mask=is_row, other=0.0).to(tl.float32)
        tl.store(out + index, total.to(OUT), mask=is_row)


def single_token_product(
    x: Tensor,  # [1, in], contiguous, of DTYPES
    weight: Tensor,  # [out, in], contiguous
    bias: Tensor | None = None,  # [out]
    *,
    norm: Norm | None = None,  # of x, first
    residual: Tensor | None = None,  # [1, out]: the product is added to it, in place
    gates: bool = False,  # silu of the first half of the outputs, times the second half
    out_dtype: torch.dtype | None = None,  # of a product that is neither added nor gated; None: that of x
    shape: Shape | None = None,
) -> Tensor:
    """The product [1, out], or [1, out / 2] of a gated one; the residual, where there is one."""
    num_rows, width = weight.shape
    num_outputs = num_rows // 2 if gates else num_rows
    shape = shape or BEST
    out = residual
    if out is None:
        out = torch.empty(1, num_outputs, dtype=out_dtype or x.dtype, device=x.device)
    _single_token[(triton.cdiv(num_rows, shape.outputs),)](
        x, x if norm is None else norm.weight, weight, x if bias is None else bias, out, out,
        0.0 if norm is None else norm.epsilon, num_outputs, WIDTH=width,
        WIDTH_TILE=triton.next_power_of_2(width), ROWS=shape.outputs,
        CHUNK=shape.warps * WARP * NUMBERS_PER_LOAD, NORMS=norm is not None, ADDS=residual is not None,
        GATES=gates, HAS_BIAS=bias is not None, num_warps=shape.warps, **pdl_arguments(x),
    )  # fmt: skip
    return out
