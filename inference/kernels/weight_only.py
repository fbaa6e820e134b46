"""Triton products of activations with int8 or int4 weights, which become floats in registers.

The weight is the left operand of each product: the tensor cores then take it from registers, where it was
unpacked, and any small number of tokens makes a tile. The sum over the inputs may be split between programs;
the last one of a tile adds up what the others left, always in the same order: the result never varies.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference.kernels.int4_unpack import unpack
from inference.kernels.launch import pdl_arguments, wait_for_predecessor
from inference.kernels.rows import QuantizedRows, Rows
from inference.kernels.tilings import Tiling

MAX_TILES = 1 << 16  # of one product whose sum is split
COUNTS = ["num_tokens", "splits", "tiles_per_split"]  # which need no kernel of their own for 1 or for 16


@triton.jit
def _write(sums, bias, out, tokens, rows, num_tokens, num_outputs, HAS_BIAS: tl.constexpr):
    """sums [OUTPUTS, TOKENS], the other way round in memory."""
    if HAS_BIAS:
        own = tl.load(bias + rows, mask=rows < num_outputs, other=0.0).to(tl.float32)
        sums += own[:, None]
    place = out + tokens[None, :].to(tl.int64) * num_outputs + rows[:, None]
    mask = (tokens[None, :] < num_tokens) & (rows[:, None] < num_outputs)
    tl.store(place, sums.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _finish(
    sums, bias, out, tokens, rows, num_tokens, num_outputs, partials, counters, splits,
    OUTPUTS: tl.constexpr, TOKENS: tl.constexpr, IS_SPLIT: tl.constexpr, HAS_BIAS: tl.constexpr,
):  # fmt: skip
    """Write the tile's sums; where they are split, leave them, and let the last program of the tile write."""
    if IS_SPLIT:
        SIZE: tl.constexpr = OUTPUTS * TOKENS
        tile = tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)
        place = tl.arange(0, OUTPUTS)[:, None] * TOKENS + tl.arange(0, TOKENS)[None, :]
        place = partials + tile.to(tl.int64) * splits * SIZE + place
        tl.store(place + tl.program_id(2) * SIZE, sums)
        tl.debug_barrier()  # all threads have stored before one of them says so
        num_before = tl.atomic_add(counters + tile, 1, sem="acq_rel")
        if num_before == splits - 1:
            tl.store(counters + tile, 0)  # as the next product needs it
            total = tl.load(place, cache_modifier=".cg")  # not from this core's own cache
            for part in range(1, splits):
                total += tl.load(place + part * SIZE, cache_modifier=".cg")
            _write(total, bias, out, tokens, rows, num_tokens, num_outputs, HAS_BIAS)
    else:
        _write(sums, bias, out, tokens, rows, num_tokens, num_outputs, HAS_BIAS)


@triton.jit(do_not_specialize=COUNTS)
def _int8_product(
    x, x_scale, weight, scale, bias, out, partials, counters, num_tokens, num_outputs, num_inputs,
    splits, tiles_per_split,
    OUTPUTS: tl.constexpr, TOKENS: tl.constexpr, INPUTS: tl.constexpr, IS_EVEN: tl.constexpr,
    IS_SPLIT: tl.constexpr, HAS_BIAS: tl.constexpr, IN_INT8: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """IN_INT8: the activations are int8, too, each token's with a scale; int32 holds sums of 2^16 inputs."""
    wait_for_predecessor(PDL)
    rows = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    tokens = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    first = tl.program_id(2) * tiles_per_split
    safe_rows = rows % num_outputs  # what is past the end is computed like the beginning, and not written
    columns = first * INPUTS + tl.arange(0, INPUTS)
    weight_at = weight + safe_rows[:, None].to(tl.int64) * num_inputs + columns[None, :]
    x_at = x + tokens[None, :].to(tl.int64) * num_inputs + columns[:, None]
    is_token = tokens[None, :] < num_tokens
    sums = tl.zeros([OUTPUTS, TOKENS], tl.int32 if IN_INT8 else tl.float32)
    for index in range(first, tl.minimum(first + tiles_per_split, tl.cdiv(num_inputs, INPUTS))):
        if IS_EVEN:
            numbers = tl.load(weight_at)
            values = tl.load(x_at, mask=is_token, other=0)
        else:
            is_input = index * INPUTS + tl.arange(0, INPUTS) < num_inputs
            numbers = tl.load(weight_at, mask=is_input[None, :], other=0)
            values = tl.load(x_at, mask=is_token & is_input[:, None], other=0)
        if IN_INT8:
            sums = tl.dot(numbers, values, sums, out_dtype=tl.int32)
        else:
            sums = tl.dot(numbers.to(values.dtype), values, sums)
        weight_at += INPUTS
        x_at += INPUTS
    scaled = sums.to(tl.float32) * tl.load(scale + safe_rows)[:, None]
    if IN_INT8:
        scaled *= tl.load(x_scale + tokens, mask=tokens < num_tokens, other=0.0)[None, :]
    _finish(
        scaled, bias, out, tokens, rows, num_tokens, num_outputs, partials, counters, splits,
        OUTPUTS, TOKENS, IS_SPLIT, HAS_BIAS,
    )  # fmt: skip


@triton.jit(do_not_specialize=COUNTS)
def _int4_product(
    x, weight, scale, bias, out, partials, counters, num_tokens, num_outputs, row_bytes, scale_stride,
    splits, tiles_per_split,
    GROUP: tl.constexpr, OUTPUTS: tl.constexpr, TOKENS: tl.constexpr, INPUTS: tl.constexpr,
    IS_SPLIT: tl.constexpr, HAS_BIAS: tl.constexpr, SCALES_FIRST: tl.constexpr, FAST: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    wait_for_predecessor(PDL)
    rows = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    tokens = tl.program_id(0) * TOKENS + tl.arange(0, TOKENS)
    HALF: tl.constexpr = GROUP // 2
    GROUPS: tl.constexpr = INPUTS // GROUP  # of a tile
    num_tiles = row_bytes // (INPUTS // 2)
    first = tl.program_id(2) * tiles_per_split
    safe_rows = rows % num_outputs  # what is past the end is computed like the beginning, and not written
    half = tl.arange(0, HALF)[None, :]
    weight_at = weight + safe_rows[:, None].to(tl.int64) * row_bytes + (first * (INPUTS // 2) + half)
    is_token = tokens[None, :] < num_tokens
    x_at = x + tokens[None, :].to(tl.int64) * (2 * row_bytes) + (first * INPUTS + tl.trans(half))
    group = first * GROUPS
    scale_at = scale + group.to(tl.int64) * scale_stride + safe_rows
    scales = tl.load(scale_at, mask=group < num_tiles * GROUPS, other=0.0)
    sums = tl.zeros([OUTPUTS, TOKENS], tl.float32)
    for _ in range(first, tl.minimum(first + tiles_per_split, num_tiles)):
        for part in tl.static_range(GROUPS):
            packed = tl.load(weight_at + part * HALF)
            x_low = tl.load(x_at + part * GROUP, mask=is_token, other=0.0)
            x_high = tl.load(x_at + part * GROUP + HALF, mask=is_token, other=0.0)
            group += 1
            scale_at += scale_stride  # a group ahead, so that no load is waited for
            next_scales = tl.load(scale_at, mask=group < num_tiles * GROUPS, other=0.0)
            low, high = unpack(packed, x.dtype.element_ty, FAST)
            if SCALES_FIRST:
                own = scales.to(low.dtype)[:, None]
                sums = tl.dot(low * own, x_low, sums)
                sums = tl.dot(high * own, x_high, sums)
            else:
                product = tl.dot(high, x_high, tl.dot(low, x_low))
                sums += product * scales.to(tl.float32)[:, None]
            scales = next_scales
        weight_at += INPUTS // 2
        x_at += INPUTS
    _finish(
        sums, bias, out, tokens, rows, num_tokens, num_outputs, partials, counters, splits,
        OUTPUTS, TOKENS, IS_SPLIT, HAS_BIAS,
    )  # fmt: skip


def int8_product(x: Rows, weight: Tensor, scale: Tensor, bias: Tensor | None, tiling: Tiling) -> Tensor:
    """16-bit or int8 x [tokens, in] times int8 [out, in] with float32 scales [out, 1]: [tokens, out]."""
    values, x_scale = (x.values, x.scale) if isinstance(x, QuantizedRows) else (x, x)
    (num_outputs, num_inputs), num_tokens = weight.shape, values.shape[0]
    tiling = tiling.dividing(num_inputs)
    out, partials, counters = _memory(num_tokens, num_outputs, tiling, values.device, x.dtype)
    _int8_product[_grid(num_tokens, num_outputs, tiling)](
        values, x_scale, weight, scale, bias, out, partials, counters, num_tokens, num_outputs, num_inputs,
        tiling.splits, tiling.tiles_per_split(num_inputs),
        OUTPUTS=tiling.outputs, TOKENS=tiling.tokens, INPUTS=tiling.inputs,
        IS_EVEN=num_inputs % tiling.inputs == 0, IS_SPLIT=tiling.splits > 1, HAS_BIAS=bias is not None,
        IN_INT8=isinstance(x, QuantizedRows), num_warps=tiling.warps, num_stages=tiling.stages,
        **pdl_arguments(values),
    )  # fmt: skip
    return out


def int4_product(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, tiling: Tiling) -> Tensor:
    """x [tokens, in], of 16 bits, times packed [out, in / 2] with scales [in / group, out]: [tokens, out]."""
    (num_tokens, num_inputs), num_outputs = x.shape, weight.shape[0]
    group = num_inputs // scale.shape[0]
    tiling = tiling.dividing(num_inputs, at_least=group)
    out, partials, counters = _memory(num_tokens, num_outputs, tiling, x.device, x.dtype)
    _int4_product[_grid(num_tokens, num_outputs, tiling)](
        x, weight, scale, bias, out, partials, counters, num_tokens, num_outputs, num_inputs // 2,
        scale.stride(0), tiling.splits, tiling.tiles_per_split(num_inputs),
        GROUP=group, OUTPUTS=tiling.outputs, TOKENS=tiling.tokens, INPUTS=tiling.inputs,
        IS_SPLIT=tiling.splits > 1, HAS_BIAS=bias is not None, SCALES_FIRST=tiling.scales_first,
        FAST=x.is_cuda, num_warps=tiling.warps, num_stages=tiling.stages, **pdl_arguments(x),
    )  # fmt: skip
    return out


def _grid(num_tokens: int, num_outputs: int, tiling: Tiling) -> tuple[int, int, int]:
    """Programs of the same weights beside each other: one finds in the cache what the other has read."""
    return triton.cdiv(num_tokens, tiling.tokens), triton.cdiv(num_outputs, tiling.outputs), tiling.splits


def _memory(
    num_tokens: int, num_outputs: int, tiling: Tiling, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The product, and where its sum is split the parts and the counters of those that are there."""
    out = torch.empty(num_tokens, num_outputs, dtype=dtype, device=device)
    if tiling.splits == 1:
        return out, None, None
    token_tiles, output_tiles, splits = _grid(num_tokens, num_outputs, tiling)
    num_tiles = token_tiles * output_tiles
    if num_tiles > MAX_TILES:
        raise ValueError(f"a product of {num_tiles} tiles is not to be split: {MAX_TILES} at most")
    size = num_tiles * splits * tiling.outputs * tiling.tokens
    return out, torch.empty(size, dtype=torch.float32, device=device), _counters(device)


@lru_cache(maxsize=64)
def _counters(device: torch.device) -> Tensor:
    """Zeros, as every product leaves them. Shared: a device's products follow one another on one stream."""
    return torch.zeros(MAX_TILES, dtype=torch.int32, device=device)
