"""Products of fp8 weights: few rows by Triton kernels that read the weights once, many by torch's own.

A weight is float8_e4m3fn `[num_outputs, width]` with a float32 scale per output, `[num_outputs, 1]`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference.kernels.launch import pdl_arguments, wait_for_predecessor
from inference.kernels.rows import QuantizedRows


@dataclass(frozen=True, slots=True)
class Tiles:
    """A tiling: rows and outputs of a program's tile, and the width that it reads at a time."""

    rows: int
    outputs: int
    depth: int
    splits: int = 1  # programs that share a tile's width; the last of them to finish adds up
    swaps: bool = True  # weights times rows, as few rows fill no left operand of a tensor core
    num_warps: int = 4
    num_stages: int = 4


VECTOR_ROWS = 1  # up to so many rows are multiplied as floats: as fast as in fp8, and more exact
VECTOR = {"OUTPUTS": 4, "DEPTH": 1024, "num_warps": 4}
# By the number of rows, up to the last's; `splits` follows from the shape. More rows go to torch's product
# where it can take them, else to MANY.
FEW = (
    Tiles(16, 64, 256),
    Tiles(32, 64, 256),
    Tiles(64, 64, 256, num_stages=3),
)
MANY = Tiles(128, 128, 128, swaps=False, num_warps=8, num_stages=3)
GROUP = 8  # row tiles that read the same weights one after the other, while those are in the cache
PROGRAMS_PER_MULTIPROCESSOR = 2


@triton.jit
def _vector(
    x, weight, weight_scale, out, num_outputs, width, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr,
    IS_EVEN: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """Some outputs of one float row."""
    wait_for_predecessor(PDL)
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    output = tile * OUTPUTS + tl.arange(0, OUTPUTS)
    is_output = output < num_outputs
    place = weight + (output % num_outputs).to(tl.int64)[:, None] * width
    total = tl.zeros([OUTPUTS, DEPTH], tl.float32)
    for first in range(0, width, DEPTH):
        column = first + tl.arange(0, DEPTH)
        if IS_EVEN:
            w = tl.load(place + column[None, :])
            value = tl.load(x + row * width + column)
        else:
            w = tl.load(place + column[None, :], mask=(column < width)[None, :], other=0.0)
            value = tl.load(x + row * width + column, mask=column < width, other=0.0)
        total += w.to(tl.float32) * value.to(tl.float32)[None, :]
    product = tl.sum(total, 1) * tl.load(weight_scale + output, mask=is_output, other=0.0)
    tl.store(out + row * num_outputs + output, product.to(out.dtype.element_ty), mask=is_output)


def vector_product(x: Tensor, weight: Tensor, weight_scale: Tensor) -> Tensor:
    """Float rows `[num_rows, width]`, very few of them, times the weight: only the weight is in fp8."""
    num_outputs, width = weight.shape
    out = torch.empty(x.shape[0], num_outputs, dtype=x.dtype, device=x.device)
    _vector[(x.shape[0], triton.cdiv(num_outputs, VECTOR["OUTPUTS"]))](
        x,
        weight,
        weight_scale,
        out,
        num_outputs,
        width,
        IS_EVEN=width % VECTOR["DEPTH"] == 0,
        **VECTOR,
        **pdl_arguments(x),
    )
    return out


@triton.jit(do_not_specialize=["num_rows", "splits"])
def _matmul(
    x, x_scale, weight, weight_scale, out, parts, counters, num_rows, num_outputs, width, splits,
    ROWS: tl.constexpr, OUTPUTS: tl.constexpr, DEPTH: tl.constexpr, IS_SPLIT: tl.constexpr,
    SWAPS: tl.constexpr, IS_EVEN: tl.constexpr, GROUP: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One tile of the product, or its share of one."""
    wait_for_predecessor(PDL)
    tile, split = tl.program_id(0), tl.program_id(1)
    row_tiles, output_tiles = tl.cdiv(num_rows, ROWS), tl.cdiv(num_outputs, OUTPUTS)
    group = tile // (GROUP * output_tiles)
    within = tile % (GROUP * output_tiles)
    group_size = tl.minimum(row_tiles - group * GROUP, GROUP)
    row = (group * GROUP + within % group_size) * ROWS + tl.arange(0, ROWS)
    output = within // group_size * OUTPUTS + tl.arange(0, OUTPUTS)
    x_place = x + (row % num_rows).to(tl.int64)[:, None] * width
    w_place = weight + (output % num_outputs).to(tl.int64)[:, None] * width
    num_steps = tl.cdiv(tl.cdiv(width, DEPTH), splits)
    total = tl.zeros([OUTPUTS, ROWS] if SWAPS else [ROWS, OUTPUTS], tl.float32)
    for step in range(0, num_steps):
        column = (split * num_steps + step) * DEPTH + tl.arange(0, DEPTH)
        if IS_EVEN:
            w = tl.load(w_place + column[None, :])
            values = tl.load(x_place + column[None, :])
        else:
            w = tl.load(w_place + column[None, :], mask=(column < width)[None, :], other=0.0)
            values = tl.load(x_place + column[None, :], mask=(column < width)[None, :], other=0.0)
        total = tl.dot(w, tl.trans(values), total) if SWAPS else tl.dot(values, tl.trans(w), total)
    if SWAPS:
        total = tl.trans(total)
    if IS_SPLIT:
        place = tl.arange(0, ROWS)[:, None] * OUTPUTS + tl.arange(0, OUTPUTS)[None, :]
        own = parts + (tile * splits + split).to(tl.int64) * (ROWS * OUTPUTS)
        tl.store(own + place, total)
        tl.debug_barrier()  # every thread's part is written before this program counts as done
        num_done = tl.atomic_add(counters + tile, 1, sem="acq_rel", scope="gpu")
        if num_done == splits - 1:  # in a fixed order, whichever program is last: the same bits each time
            total = tl.zeros([ROWS, OUTPUTS], tl.float32)
            for part in range(splits):
                theirs = parts + (tile * splits + part).to(tl.int64) * (ROWS * OUTPUTS)
                total += tl.load(theirs + place, cache_modifier=".cg")
            _store_product(total, row, output, x_scale, weight_scale, out, num_rows, num_outputs)
            tl.store(counters + tile, 0)  # ready for the next product
    else:
        _store_product(total, row, output, x_scale, weight_scale, out, num_rows, num_outputs)


@triton.jit
def _store_product(total, row, output, x_scale, weight_scale, out, num_rows, num_outputs):
    is_row, is_output = row < num_rows, output < num_outputs
    scales = tl.load(weight_scale + output, mask=is_output, other=0.0)
    product = total * tl.load(x_scale + row, mask=is_row, other=0.0)[:, None] * scales[None, :]
    place = out + row.to(tl.int64)[:, None] * num_outputs + output[None, :]
    tl.store(place, product.to(out.dtype.element_ty), mask=is_row[:, None] & is_output[None, :])


def tiled_product(
    x: QuantizedRows, weight: Tensor, weight_scale: Tensor, counters: Tensor, tiles: Tiles
) -> Tensor:
    """fp8 rows times the weight. `counters`: zeros, at least one a tile, of no other product at a time."""
    (num_rows, width), num_outputs = x.values.shape, weight.shape[0]
    out = torch.empty(num_rows, num_outputs, dtype=x.dtype, device=weight.device)
    num_tiles = triton.cdiv(num_rows, tiles.rows) * triton.cdiv(num_outputs, tiles.outputs)
    parts = x.scale
    if tiles.splits > 1:
        shape = (num_tiles * tiles.splits, tiles.rows, tiles.outputs)
        parts = torch.empty(shape, dtype=torch.float32, device=weight.device)
    _matmul[(num_tiles, tiles.splits)](
        x.values, x.scale, weight, weight_scale, out, parts, counters, num_rows, num_outputs, width,
        tiles.splits, ROWS=tiles.rows, OUTPUTS=tiles.outputs, DEPTH=tiles.depth, IS_SPLIT=tiles.splits > 1,
        SWAPS=tiles.swaps, IS_EVEN=width % (tiles.depth * tiles.splits) == 0, GROUP=GROUP,
        num_warps=tiles.num_warps, num_stages=tiles.num_stages, **pdl_arguments(x.values),
    )  # fmt: skip
    return out


def torch_product(x: QuantizedRows, weight: Tensor, weight_scale: Tensor) -> Tensor:
    """torch's product, for many rows: bfloat16 out, widths and outputs in sixteens (`fits_torch`)."""
    return torch._scaled_mm(
        x.values,
        weight.t(),
        scale_a=x.scale,
        scale_b=weight_scale.t(),
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


def fits_torch(x: QuantizedRows, weight: Tensor) -> bool:
    return x.dtype == torch.bfloat16 and weight.shape[0] % 16 == 0 and weight.shape[1] % 16 == 0


@lru_cache(maxsize=8192)
def few_tiles(num_rows: int, num_outputs: int, width: int, num_multiprocessors: int) -> Tiles | None:
    """The tiles for few rows, split until all multiprocessors have work; None for more than FEW has."""
    for tiles in FEW:
        if num_rows <= tiles.rows:
            return split(tiles, num_outputs, width, PROGRAMS_PER_MULTIPROCESSOR * num_multiprocessors)
    return None


def split(tiles: Tiles, num_outputs: int, width: int, most_programs: int) -> Tiles:
    """The same tiles, one row of them, each shared by as many programs as may be: two steps each at least."""
    num_tiles, splits = triton.cdiv(num_outputs, tiles.outputs), 1
    while 2 * splits * num_tiles <= most_programs and width >= 4 * splits * tiles.depth:
        splits *= 2
    return replace(tiles, splits=splits)


def num_counters(num_outputs: int) -> int:
    """Enough for every product that `product` may split: of one row tile."""
    return triton.cdiv(num_outputs, min(tiles.outputs for tiles in FEW))


def product(x: QuantizedRows, weight: Tensor, weight_scale: Tensor, counters: Tensor) -> Tensor:
    """fp8 rows `[num_rows, width]` times the weight, in the way that is fastest for so many."""
    num_multiprocessors = torch.cuda.get_device_properties(weight.device).multi_processor_count
    tiles = few_tiles(x.values.shape[0], *weight.shape, num_multiprocessors)
    if tiles is None and fits_torch(x, weight):
        return torch_product(x, weight, weight_scale)
    return tiled_product(x, weight, weight_scale, counters, tiles or MANY)
