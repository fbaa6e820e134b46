"""Rows of float32 times weights of bfloat16: exactly what they would be times the same weights in float32.

As `packing` lays them out they are read from the first byte to the last, and no register has to be summed up
in the end.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from inference.cpu.atomics import floats
from inference.cpu.packing import BLOCK
from inference.cpu.vectors import block_of

rows_1, rows_4, rows_8 = block_of(BLOCK, 1), block_of(BLOCK, 4), block_of(BLOCK, 8)


@njit
def multiply_blocks(product, rows, stride, scales, num_rows, column, last, out, own):
    """Outputs from `column`, a multiple of BLOCK, to `last` for all rows, to float32 [num_rows, num_outputs].

    `rows`: address of float32 rows, `stride` bytes from one to the next; `scales`: of float32 [num_rows], all
    1; `own`: of 8 * BLOCK float32 for this thread alone.
    """
    length = product.num_inputs
    while column < last:
        w = product.weight + column * length * 2
        row = np.int64(0)
        while row < num_rows:
            left = num_rows - row
            x = rows + row * stride
            if left == 1:
                taken = np.int64(1)
                rows_1(x, stride, np.int64(0), w, length, own)
            elif left <= 4:
                taken = min(left, np.int64(4))
                rows_4(x, stride, taken - 1, w, length, own)
            else:
                taken = min(left, np.int64(8))
                rows_8(x, stride, taken - 1, w, length, own)
            store(product, scales, row, column, taken, min(BLOCK, last - column), out, own)
            row += taken
        column += BLOCK


@njit
def store(product, scales, row, column, num_rows, width, out, sums):
    """Sums of a block, float32 [num_rows, BLOCK], times each row's scale, to where the product wants them."""
    units = floats(scales + 4 * row, num_rows)
    for i in range(num_rows):
        totals = floats(sums + 4 * BLOCK * i, width)
        for j in range(width):
            totals[j] *= units[i]
        target = floats(out + 4 * ((row + i) * product.num_outputs + column), width)
        if product.bias:
            bias = floats(product.bias + 4 * column, width)
            for j in range(width):
                totals[j] += bias[j]
        if product.adds:
            for j in range(width):
                target[j] += totals[j]
        else:
            for j in range(width):
                target[j] = totals[j]
