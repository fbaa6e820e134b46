"""A Triton matrix product whose rows do not feel each other: one order of sums, however many there are.

cuBLAS chooses its kernel, and with it the order of sums, by the number of rows. Here a row's products are
added in steps of the same size from the first input to the last: no sum is split, and the tile that a
program computes says only how many rows and outputs share what is read.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference.kernels.softmax_tile import precision, shared_memory

SHARED_BYTES_LEFT = 2048  # of a program, for what is no tile


@dataclass(frozen=True, slots=True)
class Tile:
    """A program's tile, and the largest number of rows it is chosen for."""

    up_to: int  # rows of the product
    rows: int
    outputs: int
    depth: int  # inputs read at a time
    warps: int
    stages: int

    def fitting(self, *, shared_bytes: int, itemsize: int) -> Tile:
        """With no more stages than the shared memory of a program holds."""
        stage_bytes = (self.rows + self.outputs) * self.depth * itemsize
        most = (shared_bytes - SHARED_BYTES_LEFT) // stage_bytes
        return replace(self, stages=max(1, min(self.stages, most)))


# Estimates, to be replaced by what `python -m tests.gpu.sweeps.invariant` prints. At least 64 rows and 4
# warps: smaller tiles are multiplied by another instruction of the tensor cores.
# For weights of few outputs, so that more programs read them.
NARROW = Tile(64, rows=64, outputs=32, depth=128, warps=4, stages=4)
WIDE = Tile(64, rows=64, outputs=64, depth=128, warps=4, stages=4)
LARGER = (
    Tile(256, rows=64, outputs=128, depth=64, warps=4, stages=4),
    Tile(2**31, rows=128, outputs=256, depth=64, warps=8, stages=3),
)
FLOAT32 = Tile(2**31, rows=64, outputs=32, depth=32, warps=4, stages=2)
FEW_OUTPUTS = 8192
TILES_PER_TURN = 8  # of rows, that go through the outputs together and share what they read


@triton.jit(do_not_specialize=["num_rows"])
def _product(
    x, weight, bias, out, num_rows, num_outputs, num_inputs, x_stride, weight_stride, ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr, DEPTH: tl.constexpr, TURN: tl.constexpr, IS_EVEN: tl.constexpr,
    HAS_BIAS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of the output."""
    row_tiles, output_tiles = tl.cdiv(num_rows, ROWS), tl.cdiv(num_outputs, OUTPUTS)
    turn, within = tl.program_id(0) // (TURN * output_tiles), tl.program_id(0) % (TURN * output_tiles)
    height = tl.minimum(row_tiles - turn * TURN, TURN)
    row = (turn * TURN + within % height) * ROWS + tl.arange(0, ROWS)
    output = within // height * OUTPUTS + tl.arange(0, OUTPUTS)
    depth = tl.arange(0, DEPTH)
    is_row, is_output = row < num_rows, output < num_outputs
    rows = x + row.to(tl.int64)[:, None] * x_stride + depth[None, :]
    columns = weight + output.to(tl.int64)[None, :] * weight_stride + depth[:, None]
    total = tl.zeros([ROWS, OUTPUTS], tl.float32)
    for first in range(0, num_inputs, DEPTH):
        if IS_EVEN:
            left = tl.load(rows + first, mask=is_row[:, None], other=0.0)
            right = tl.load(columns + first, mask=is_output[None, :], other=0.0)
        else:
            is_input = first + depth < num_inputs
            left = tl.load(rows + first, mask=is_row[:, None] & is_input[None, :], other=0.0)
            right = tl.load(columns + first, mask=is_input[:, None] & is_output[None, :], other=0.0)
        total = tl.dot(left, right, total, input_precision=PRECISION)
    if HAS_BIAS:
        total += tl.load(bias + output, mask=is_output, other=0.0).to(tl.float32)[None, :]
    place = out + row.to(tl.int64)[:, None] * num_outputs + output[None, :]
    tl.store(place, total.to(out.dtype.element_ty), mask=is_row[:, None] & is_output[None, :])


def invariant_product(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tiles: tuple[Tile, ...],
    out_dtype: torch.dtype | None = None,
) -> Tensor:
    """x [rows, in] times weight [out, in], plus bias [out], in `out_dtype`; None: in the dtype of x.

    `tiles`: what `tiles_of` or `agreeing_tiles` gives for the weight.
    """
    num_rows, num_outputs = x.shape[0], weight.shape[0]
    tile = next(tile for tile in tiles if num_rows <= tile.up_to)
    out = torch.empty(num_rows, num_outputs, device=x.device, dtype=out_dtype or x.dtype)
    num_tiles = triton.cdiv(num_rows, tile.rows) * triton.cdiv(num_outputs, tile.outputs)
    if num_tiles:
        _product[(num_tiles,)](
            x, weight, x if bias is None else bias, out, num_rows, num_outputs, x.shape[1], x.stride(0),
            weight.stride(0), ROWS=tile.rows, OUTPUTS=tile.outputs, DEPTH=tile.depth, TURN=TILES_PER_TURN,
            IS_EVEN=x.shape[1] % tile.depth == 0, HAS_BIAS=bias is not None,
            PRECISION=precision(x), num_warps=tile.warps,
            num_stages=tile.stages,
        )  # fmt: skip
    return out


def tiles_of(weight: Tensor) -> tuple[Tile, ...]:
    """For few rows, for some and for many, as the GPU can hold them."""
    if weight.dtype == torch.float32:
        return (FLOAT32,)
    few = NARROW if weight.shape[0] <= FEW_OUTPUTS else WIDE
    shared_bytes = shared_memory(weight.device)
    return tuple(tile.fitting(shared_bytes=shared_bytes, itemsize=weight.itemsize) for tile in (few, *LARGER))


def agreeing_tiles(weight: Tensor) -> tuple[Tile, ...]:
    """The tiles for a weight, seen on this very GPU to give the same bits; else the first, for all rows.

    An order of sums that differs shows in a share of the outputs that cannot be missed.
    """
    first, *larger = tiles_of(weight)
    whole = replace(first, up_to=FLOAT32.up_to)
    generator = torch.Generator(weight.device).manual_seed(0)
    x = torch.randn(320, weight.shape[1], device=weight.device, dtype=weight.dtype, generator=generator)
    expected = invariant_product(x, weight, None, (whole,))
    for tile in larger:
        if not torch.equal(invariant_product(x, weight, None, (replace(tile, up_to=whole.up_to),)), expected):
            return (whole,)
    return (first, *larger)
