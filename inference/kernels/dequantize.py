"""Triton kernels that turn int8 and int4 weights back into floats, for products of many tokens."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference.kernels.int4_unpack import unpack

INT8_TILE = {"OUTPUTS": 4, "INPUTS": 1024, "num_warps": 4}
INT4_TILE = {"OUTPUTS": 32, "num_warps": 4}


@triton.jit
def _int8_floats(
    weight, scale, out, num_outputs, num_inputs, OUTPUTS: tl.constexpr, INPUTS: tl.constexpr
):  # fmt: skip
    rows = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    columns = tl.program_id(1) * INPUTS + tl.arange(0, INPUTS)
    is_row = rows < num_outputs
    mask = is_row[:, None] & (columns < num_inputs)[None, :]
    place = rows[:, None].to(tl.int64) * num_inputs + columns[None, :]
    numbers = tl.load(weight + place, mask=mask, other=0).to(tl.float32)
    scaled = numbers * tl.load(scale + rows, mask=is_row, other=0.0)[:, None]
    tl.store(out + place, scaled.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _int4_floats(
    weight, scale, out, num_outputs, row_bytes, scale_stride,
    GROUP: tl.constexpr, OUTPUTS: tl.constexpr, FAST: tl.constexpr,
):  # fmt: skip
    HALF: tl.constexpr = GROUP // 2
    rows = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    group = tl.program_id(1)
    half = tl.arange(0, HALF)
    is_row = rows < num_outputs
    mask = is_row[:, None] & (half >= 0)[None, :]
    from_row = rows[:, None].to(tl.int64) * row_bytes + group * HALF
    packed = tl.load(weight + from_row + half[None, :], mask=mask, other=0)
    low, high = unpack(packed, out.dtype.element_ty, FAST)
    own = tl.load(scale + group * scale_stride + rows, mask=is_row, other=0.0).to(out.dtype.element_ty)
    place = out + 2 * from_row + half[None, :]
    tl.store(place, low * own[:, None], mask=mask)
    tl.store(place + HALF, high * own[:, None], mask=mask)


def int8_floats(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """int8 [out, in] times float32 scales [out, 1], rounded to `dtype`."""
    out = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    num_outputs, num_inputs = weight.shape
    grid = (triton.cdiv(num_outputs, INT8_TILE["OUTPUTS"]), triton.cdiv(num_inputs, INT8_TILE["INPUTS"]))
    _int8_floats[grid](weight, scale, out, num_outputs, num_inputs, **INT8_TILE)
    return out


def int4_floats(weight: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    """Packed [out, in / 2] times scales [in / group, out], rounded to `dtype`: [out, in]."""
    num_outputs, row_bytes = weight.shape
    num_groups = scale.shape[0]
    out = torch.empty(num_outputs, 2 * row_bytes, dtype=dtype, device=weight.device)
    _int4_floats[(triton.cdiv(num_outputs, INT4_TILE["OUTPUTS"]), num_groups)](
        weight, scale, out, num_outputs, row_bytes, scale.stride(0), GROUP=2 * row_bytes // num_groups,
        FAST=weight.is_cuda, **INT4_TILE,
    )  # fmt: skip
    return out
