"""Rows of activations times weights that are read as they are stored: int8, packed bfloat16, or packed int4.

The rows stay float32, or become whole numbers of 16 bits.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from inference.cpu.atomics import DIVIDES, INFINITE, MAGNITUDE, bits, bytes_at, floats, from_bits, shorts
from inference.cpu.bf16 import multiply_blocks
from inference.cpu.buffers import ALIGNMENT
from inference.cpu.int4 import multiply_nibbles, put_whole_row
from inference.cpu.packing import BLOCK
from inference.cpu.thread_pool import finish, next_share
from inference.cpu.vectors import lanes, step_of, tile

PRODUCT = np.dtype(
    [
        (
            "weight",
            np.int64,
        ),  # address of int8 [num_outputs, num_inputs], or of what packed.py or nibbles.py takes
        ("scale", np.int64),  # address of float32 [num_outputs], of what nibbles.py takes, or 0
        ("bias", np.int64),  # address of float32 [num_outputs], or 0
        ("num_outputs", np.int64),
        ("num_inputs", np.int64),
        ("group", np.int64),  # inputs that share a scale; 0: all
        ("kind", np.int64),
        ("adds", np.int64),  # 1: to what is in the output; 0: in its place
    ]
)
# int8 x float32; int8 x int16, which is faster; bfloat16 x float32; int4 x float32; int4 x int16
EXACT, ROUNDED, PACKED, INT4_EXACT, INT4_ROUNDED = range(5)
SHARES = 8  # of a product, for each thread
COLUMNS = 8  # outputs of a share come in multiples of it
OWN_FLOATS = 8 * BLOCK  # that a thread needs for itself

# One int32 sums num_inputs / lanes products of an activation and a weight of at most 128.
LARGEST, LARGEST_SUM = 32767, (2**31 - 1) * lanes() // 128
SCALE_OF_NAN = np.float32(np.nan)
ZERO = np.float32(0.0)
FIRST = np.int64(0)  # a plain 0 would have numba compile what it is passed to once more

whole_4x4, whole_3x4, whole_2x4 = tile("whole", 4, 4), tile("whole", 3, 4), tile("whole", 2, 4)
whole_1x4, whole_1x1 = tile("whole", 1, 4), tile("whole", 1, 1)
wide_4x4, wide_3x4, wide_2x4 = tile("widened", 4, 4), tile("widened", 3, 4), tile("widened", 2, 4)
wide_1x4, wide_1x1 = tile("widened", 1, 4), tile("widened", 1, 1)
WHOLE_STEP, WIDE_STEP = step_of("whole"), step_of("widened")


@njit
def stride_of(product):
    """Bytes from one row of its activations to the next."""
    size = product.num_inputs * (2 if product.kind == ROUNDED or product.kind == INT4_ROUNDED else 4)
    if product.kind == INT4_ROUNDED:
        size += product.num_inputs // product.group * 4
    return -(-size // ALIGNMENT) * ALIGNMENT


@njit(error_model=DIVIDES)  # as it is written: a reciprocal of a very small number would be infinite
def put_row(source, product, rows, scales, row):
    """One row, float32 [num_inputs], as the product takes it; a row that is not finite becomes NaN."""
    count = product.num_inputs
    address = rows + row * stride_of(product)
    unit = floats(scales + 4 * row, 1)
    if product.kind == INT4_ROUNDED:
        unit[0] = put_whole_row(source[:count], product.group, address)
        return
    if product.kind != ROUNDED:
        target = floats(address, count)
        for i in range(count):
            target[i] = source[i]
        unit[0] = np.float32(1.0)
        return
    most = np.int32(0)
    for i in range(count):
        most = max(most, bits(source[i]) & MAGNITUDE)
    numbers = shorts(address, count)
    if most >= INFINITE or most == 0:
        for i in range(count):
            numbers[i] = np.int16(0)
        unit[0] = SCALE_OF_NAN if most >= INFINITE else ZERO
        return
    limit = np.float32(min(LARGEST, LARGEST_SUM // count))
    largest = from_bits(most)
    unit[0] = largest / limit
    for i in range(count):
        numbers[i] = np.int16(np.rint(source[i] / largest * limit))


@njit(nogil=True, cache=True)
def run(board, thread, all_products, x, num_rows, num_threads, rows, scales, out, own, own_bytes):
    """One thread's part of a product alone: x, float32 [num_rows, num_inputs], to float32 `out`."""
    product = all_products[0]
    width = product.num_inputs
    row = next_share(board, 0, num_rows)
    while row >= 0:
        put_row(floats(x + 4 * row * width, width), product, rows, scales, row)
        finish(board, 0)
        row = next_share(board, 0, num_rows)
    multiply_all(board, 1, product, rows, scales, num_rows, num_threads, out, own + thread * own_bytes)


@njit
def multiply_all(board, phase, product, rows, scales, num_rows, num_threads, out, own):
    """One thread's part of a phase that multiplies."""
    count = num_shares(product, num_threads)
    share = next_share(board, phase, count)
    while share >= 0:
        multiply(product, rows, scales, num_rows, share, num_threads, out, own)
        finish(board, phase)
        share = next_share(board, phase, count)


@njit
def num_shares(product, num_threads):
    return -(-product.num_outputs // share_size(product, num_threads))


@njit
def share_size(product, num_threads):
    """Outputs of one share."""
    if product.kind >= PACKED:
        return max(1, product.num_outputs // (SHARES * num_threads * BLOCK)) * BLOCK
    return -(-product.num_outputs // (SHARES * num_threads * COLUMNS)) * COLUMNS


@njit
def multiply(product, rows, scales, num_rows, share, num_threads, out, own):
    """One share of the outputs for all rows, to float32 [num_rows, num_outputs].

    `own`: address of OWN_FLOATS float32 for this thread alone.
    """
    size = share_size(product, num_threads)
    column, last = share * size, min(share * size + size, product.num_outputs)
    stride_in = stride_of(product)
    if product.kind == PACKED:
        multiply_blocks(product, rows, stride_in, scales, num_rows, column, last, out, own)
        return
    if product.kind > PACKED:
        rounds = product.kind == INT4_ROUNDED
        multiply_nibbles(product, rounds, rows, stride_in, scales, num_rows, column, last, out, own)
        return
    while column < last:
        width = 4 if column + 4 <= last else 1
        w = product.weight + column * product.num_inputs
        row = FIRST
        while row < num_rows:
            taken = min(4, num_rows - row) if width == 4 else 1
            _tile(product, taken, width, rows + row * stride_in, stride_in, w, own)
            _store(product, scales, row, column, taken, width, out, own)
            row += taken
        column += width


@njit
def _tile(product, num_rows, num_columns, x, stride, w, sums):
    length = product.num_inputs
    if product.kind == ROUNDED:
        vectors = length - length % WHOLE_STEP
        _whole_tile(num_rows, num_columns, x, stride, w, length, vectors, sums)
    else:
        vectors = length - length % WIDE_STEP
        _wide_tile(num_rows, num_columns, x, stride, w, length, vectors, sums)
    if vectors < length:
        _add_rest(product, num_rows, num_columns, x, stride, w, vectors, sums)


@njit
def _whole_tile(num_rows, num_columns, x, stride, w, w_stride, length, sums):
    if num_rows == 4:
        whole_4x4(x, stride, w, w_stride, length, sums)
    elif num_rows == 3:
        whole_3x4(x, stride, w, w_stride, length, sums)
    elif num_rows == 2:
        whole_2x4(x, stride, w, w_stride, length, sums)
    elif num_columns == 4:
        whole_1x4(x, stride, w, w_stride, length, sums)
    else:
        whole_1x1(x, stride, w, w_stride, length, sums)


@njit
def _wide_tile(num_rows, num_columns, x, stride, w, w_stride, length, sums):
    if num_rows == 4:
        wide_4x4(x, stride, w, w_stride, length, sums)
    elif num_rows == 3:
        wide_3x4(x, stride, w, w_stride, length, sums)
    elif num_rows == 2:
        wide_2x4(x, stride, w, w_stride, length, sums)
    elif num_columns == 4:
        wide_1x4(x, stride, w, w_stride, length, sums)
    else:
        wide_1x1(x, stride, w, w_stride, length, sums)


@njit
def _add_rest(product, num_rows, num_columns, x, stride, w, done, sums):
    """What vectors did not reach: the last numbers of each row."""
    length = product.num_inputs
    totals = floats(sums, num_rows * num_columns)
    for row in range(num_rows):
        for column in range(num_columns):
            weights = bytes_at(w + column * length, length)
            total = ZERO
            if product.kind == ROUNDED:
                whole = shorts(x + row * stride, length)
                for i in range(done, length):
                    total += np.float32(whole[i]) * np.float32(weights[i])
            else:
                wide = floats(x + row * stride, length)
                for i in range(done, length):
                    total += wide[i] * np.float32(weights[i])
            totals[row * num_columns + column] += total


@njit
def _store(product, scales, row, column, num_rows, num_columns, out, sums):
    totals = floats(sums, num_rows * num_columns)
    units = floats(scales + 4 * row, num_rows)
    steps = floats(product.scale + 4 * column, num_columns)
    for i in range(num_rows):
        target = floats(out + 4 * ((row + i) * product.num_outputs + column), num_columns)
        for j in range(num_columns):
            number = totals[i * num_columns + j] * units[i] * steps[j]
            if product.bias:
                number += floats(product.bias + 4 * (column + j), 1)[0]
            if product.adds:
                number += target[j]
            target[j] = number
