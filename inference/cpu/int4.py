"""Rows of activations times weights of four bits: two of them to a byte, a scale for each group of inputs.

As `packing` lays out words of eight weights, and scales likewise, they are read from the first byte to the
last. The rows stay float32, or become whole numbers of 16 bits; sums within a group are exact then.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from inference.cpu.atomics import DIVIDES, INFINITE, MAGNITUDE, bits, from_bits, ints, shorts
from inference.cpu.bf16 import store
from inference.cpu.int4_tile import NUM_VECTORS, OFFSET, SCALES, nibble_tile
from inference.cpu.packing import BLOCK
from inference.cpu.vectors import lanes

LARGEST = np.float32(32767.0)
whole_1, whole_2, whole_4 = (nibble_tile(rows, rounds=True) for rows in (1, 2, 4))
wide_1, wide_4 = nibble_tile(1, rounds=False), nibble_tile(4, rounds=False)
MOST_ROWS = 8 if lanes() == 16 else 4  # whose sums stay in registers
whole_most = nibble_tile(MOST_ROWS, rounds=True)
TILE = NUM_VECTORS * lanes()  # outputs


@njit(error_model=DIVIDES)
def put_whole_row(source, group, address):
    """float32 [num_inputs] as int16, for every four the second and third in turns, and behind them int32
    [groups]: what a group's sum is too large by. The largest of the row becomes LARGEST; its size, or NaN.
    """
    count = len(source)
    most = np.int32(0)
    for i in range(count):
        most = max(most, bits(source[i]) & MAGNITUDE)
    numbers, offsets = shorts(address, count), ints(address + 2 * count, count // group)
    if most >= INFINITE or most == 0:
        for i in range(count):
            numbers[i] = np.int16(0)
        for i in range(len(offsets)):
            offsets[i] = np.int32(0)
        return np.float32(np.nan) if most >= INFINITE else np.float32(0.0)
    largest = from_bits(most)
    for i in range(count):
        numbers[i] = np.int16(np.rint(source[i] / largest * LARGEST))
    for i in range(len(offsets)):
        total = np.int32(0)
        for j in range(group):
            total += np.int32(numbers[i * group + j])
        offsets[i] = -OFFSET * total
    for i in range(0, count, 4):
        second = numbers[i + 1]
        numbers[i + 1] = numbers[i + 2]
        numbers[i + 2] = second
    return largest / LARGEST


@njit
def multiply_nibbles(product, rounds, rows, stride, scales, num_rows, column, last, out, own):
    """Outputs from `column`, a multiple of BLOCK, to `last` for all rows, to float32 [num_rows, num_outputs].

    `rows`: address of rows as put_whole_row leaves them, or of float32 ones, `stride` bytes from one to the
    next; `scales`: of float32 [num_rows]; `own`: of 8 * BLOCK float32 for this thread alone.
    """
    w = product.weight + column * (product.num_inputs // 2)
    steps = product.scale + column // BLOCK * (product.num_inputs // product.group) * SCALES
    while column < last:
        row = np.int64(0)
        while row < num_rows:
            left = num_rows - row
            taken = min(left, np.int64(MOST_ROWS if rounds else 4))
            x = rows + row * stride
            for part in range(0, BLOCK, TILE):
                if rounds:
                    _whole(x, stride, taken, w + 4 * part, steps + 2 * part, product, own + 4 * part)
                else:
                    _wide(x, stride, taken, w + 4 * part, steps + 2 * part, product, own + 4 * part)
            store(product, scales, row, column, taken, min(BLOCK, last - column), out, own)
            row += taken
        column += BLOCK
        w += BLOCK * (product.num_inputs // 2)
        steps += product.num_inputs // product.group * SCALES


@njit
def _whole(x, stride, num_rows, w, steps, product, out):
    groups = product.num_inputs // product.group
    if num_rows == 1:
        whole_1(x, stride, np.int64(0), w, steps, product.group, groups, out)
    elif num_rows == 2:
        whole_2(x, stride, np.int64(1), w, steps, product.group, groups, out)
    elif num_rows <= 4:
        whole_4(x, stride, num_rows - 1, w, steps, product.group, groups, out)
    else:
        whole_most(x, stride, num_rows - 1, w, steps, product.group, groups, out)


@njit
def _wide(x, stride, num_rows, w, steps, product, out):
    groups = product.num_inputs // product.group
    if num_rows == 1:
        wide_1(x, stride, np.int64(0), w, steps, product.group, groups, out)
    else:
        wide_4(x, stride, num_rows - 1, w, steps, product.group, groups, out)
