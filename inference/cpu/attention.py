"""Attention straight from the pool's blocks: no key or value is copied, no row padded.

A share is one key-value head and a few tokens of one sequence. Their query heads are the rows of small
products with the keys; the keys come by chunks, each with a softmax of its own that the next one corrects.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numba.extending import register_jitable

from inference.cpu.memory import (
    FASTMATH,
    INFINITE,
    MAGNITUDE,
    ONE,
    bits,
    exponential,
    fill,
    floats,
    from_bits,
    longs,
)
from inference.cpu.vectors import VECTORS, lanes, prefetch, step_of, summing, tile

STRETCH = np.dtype(
    [
        ("offset", np.int64),  # of its first token in the batch
        ("num_tokens", np.int64),
        ("kv_len", np.int64),  # keys that the last token may see, itself included
        ("table", np.int64),  # address of its blocks' numbers, int64
        ("first_share", np.int64),  # of the shares of all stretches
    ]
)
HEADS = np.dtype([(name, np.int64) for name in ("num_heads", "num_kv_heads", "head_dim", "block_size")])

ROWS = 24  # query heads that a share takes at once, where one token has no more
KEYS = 256  # that are scored before their values are summed

MASKED = np.float32(-np.inf)
ZERO = np.float32(0.0)

scores_4x4, scores_3x4, scores_2x4 = tile("float", 4, 4), tile("float", 3, 4), tile("float", 2, 4)
scores_1x4, scores_1x1 = tile("float", 1, 4), tile("float", 1, 1)
sums_4, sums_3, sums_2, sums_1 = summing(4), summing(3), summing(2), summing(1)
STEP = step_of("float")
WIDTH = VECTORS * lanes()
AHEAD = 8  # positions whose keys are fetched before they are needed


@register_jitable
def tokens_at_once(heads):
    """Tokens of one share."""
    return max(1, ROWS // (heads["num_heads"] // heads["num_kv_heads"]))


@register_jitable
def num_shares(stretch, heads):
    return -(-stretch["num_tokens"] // tokens_at_once(heads)) * heads["num_kv_heads"]


@register_jitable
def scratch_floats(heads):
    """float32 numbers that a thread needs for itself: queries, sums, scores, two numbers a row, a tile."""
    rows = tokens_at_once(heads) * (heads["num_heads"] // heads["num_kv_heads"])
    return rows * (2 * heads["head_dim"] + KEYS + 2) + 64


@njit
def attend(stretch, share, heads, keys, values, scaling, window, queries, stride, out, scratch):
    """Attention of one share's tokens.

    `queries`: address of float32 [num_tokens of the batch, stride], whose first num_heads * head_dim numbers
    are the rotated queries; `out`: of float32 [num_tokens, num_heads * head_dim]; keys and values: of the
    layer's pool, float32 [slots, num_kv_heads, head_dim]; `window`: positions that a token sees, itself
    included; 0: all. `scratch`: of `scratch_floats` float32 for this thread alone.
    """
    dim, group = heads.head_dim, heads.num_heads // heads.num_kv_heads
    kv_head = share % heads.num_kv_heads
    first = share // heads.num_kv_heads * tokens_at_once(heads)
    num_tokens = min(tokens_at_once(heads), stretch.num_tokens - first)
    num_rows = num_tokens * group
    rows = scratch
    sums = rows + 4 * num_rows * dim
    scores = sums + 4 * num_rows * dim
    highest = floats(scores + 4 * num_rows * KEYS, num_rows)
    weights = floats(scores + 4 * num_rows * (KEYS + 1), num_rows)
    dots = scores + 4 * num_rows * (KEYS + 2)
    head_offset = 4 * kv_head * group * dim
    for token in range(num_tokens):
        source = queries + 4 * (stretch.offset + first + token) * stride + head_offset
        _scale(floats(source, group * dim), scaling, floats(rows + 4 * token * group * dim, group * dim))
    fill(floats(sums, num_rows * dim), ZERO)
    fill(highest, MASKED)
    fill(weights, ZERO)
    seen = stretch.kv_len - stretch.num_tokens + first + 1  # keys of the share's first token, itself included
    start = max(0, seen - window) if window else 0
    end = seen + num_tokens - 1
    slot_bytes = 4 * heads.num_kv_heads * dim
    start -= start % heads.block_size
    while start < end:
        count = min(KEYS, end - start)
        _fetch(stretch, heads, values + 4 * kv_head * dim, slot_bytes, start, count)
        _score(
            stretch, heads, keys + 4 * kv_head * dim, slot_bytes, rows, num_rows, start, count, scores, dots
        )
        for row in range(num_rows):
            own = seen + row // group
            line = floats(scores + 4 * row * KEYS, count)
            fill(line[max(0, min(count, own - start)) :], MASKED)
            if window:
                fill(line[: max(0, min(count, own - window - start))], MASKED)
            _soften(line, row, highest, weights, floats(sums + 4 * row * dim, dim))
        _sum_values(
            stretch, heads, values + 4 * kv_head * dim, slot_bytes, scores, num_rows, start, count, sums
        )
        start += count
    for row in range(num_rows):
        token = stretch.offset + first + row // group
        target = out + 4 * (token * heads.num_heads + kv_head * group + row % group) * dim
        _scale(floats(sums + 4 * row * dim, dim), ONE / weights[row], floats(target, dim))


@njit(fastmath=FASTMATH)
def _scale(source, factor, target):
    for i in range(len(target)):
        target[i] = source[i] * np.float32(factor)


@njit
def _place(stretch, heads, position):
    """The slot of a position of the sequence."""
    size = heads.block_size
    table = longs(stretch.table, position // size + 1)
    return table[position // size] * size + position % size


@njit
def _fetch(stretch, heads, pool, slot_bytes, start, count):
    """Has the CPU fetch the keys, or values, of `count` positions."""
    for position in range(start, start + count):
        address = pool + _place(stretch, heads, position) * slot_bytes
        for line in range(0, 4 * heads.head_dim, 64):
            prefetch(address + line)


@njit
def _score(stretch, heads, keys, slot_bytes, rows, num_rows, start, count, scores, dots):
    """Products of all rows with `count` keys from position `start` on, to float32 [num_rows, KEYS]."""
    dim, size = heads.head_dim, heads.block_size
    row_bytes = 4 * dim
    done = 0
    while done < count:
        position = start + done
        width = 4 if min(size - position % size, count - done) >= 4 else 1
        key = keys + _place(stretch, heads, position) * slot_bytes
        if done + AHEAD + width <= count:
            _fetch(stretch, heads, keys, slot_bytes, position + AHEAD, width)
        row = 0
        while row < num_rows:
            taken = min(4, num_rows - row) if width == 4 else 1
            _dots(rows + row * row_bytes, row_bytes, key, slot_bytes, dim, taken, width, dots)
            found = floats(dots, taken * width)
            for i in range(taken):
                line = floats(scores + 4 * (row + i) * KEYS + 4 * done, width)
                for j in range(width):
                    line[j] = found[i * width + j]
            row += taken
        done += width


@njit
def _dots(x, x_stride, key, key_stride, length, num_rows, num_keys, out):
    vectors = length - length % STEP
    if num_keys == 1:
        scores_1x1(x, x_stride, key, key_stride, vectors, out)
    elif num_rows == 4:
        scores_4x4(x, x_stride, key, key_stride, vectors, out)
    elif num_rows == 3:
        scores_3x4(x, x_stride, key, key_stride, vectors, out)
    elif num_rows == 2:
        scores_2x4(x, x_stride, key, key_stride, vectors, out)
    else:
        scores_1x4(x, x_stride, key, key_stride, vectors, out)
    if vectors < length:
        found = floats(out, num_rows * num_keys)
        for i in range(num_rows):
            query = floats(x + i * x_stride, length)
            for j in range(num_keys):
                other = floats(key + j * key_stride, length)
                for k in range(vectors, length):
                    found[i * num_keys + j] += query[k] * other[k]


@njit(fastmath=FASTMATH)
def _soften(line, row, highest, weights, sums):
    """Scores of one row become shares by the highest so far; what was summed by a lower one is corrected."""
    most = _ordered(highest[row])
    for i in range(len(line)):
        most = max(most, _ordered(line[i]))  # of whole numbers a loop becomes vectors; NaN is the most
    top = from_bits(np.int32(most ^ ((most >> np.int32(31)) & MAGNITUDE)))
    if top == MASKED:  # nothing seen so far
        fill(line, ZERO)
        return
    correction = exponential(highest[row] - top)
    if highest[row] == MASKED:
        correction = ZERO
    total = ZERO
    for i in range(len(line)):
        share = exponential(line[i] - top)
        share = ZERO if line[i] == MASKED else share
        line[i] = share
        total += share
    highest[row] = top
    weights[row] = weights[row] * correction + total
    if correction != ONE:
        for i in range(len(sums)):
            sums[i] *= correction


@njit
def _ordered(number):
    """An int32 that grows with a float32; a NaN's is more than that of infinity."""
    found = bits(number)
    ordered = np.int32(found ^ ((found >> np.int32(31)) & MAGNITUDE))
    return MAGNITUDE if np.int32(found & MAGNITUDE) > INFINITE else ordered


@njit(fastmath=FASTMATH)
def _sum_values(stretch, heads, values, slot_bytes, scores, num_rows, start, count, sums):
    """Adds `count` values, each times its share, to float32 [num_rows, head_dim]."""
    dim, size = heads.head_dim, heads.block_size
    vectors = dim - dim % WIDTH
    done = 0
    while done < count:
        position = start + done
        together = min(size - position % size, count - done)
        value = values + _place(stretch, heads, position) * slot_bytes
        row = 0
        while row < num_rows:
            taken = min(4, num_rows - row)
            shares = scores + 4 * (row * KEYS + done)
            for first in range(0, vectors, WIDTH):
                target = sums + 4 * (row * dim + first)
                _add(taken, shares, value + 4 * first, slot_bytes, together, target, 4 * dim)
            if vectors < dim:
                _add_rest(taken, shares, value, slot_bytes, together, sums + 4 * row * dim, vectors, dim)
            row += taken
        done += together


@njit
def _add(num_rows, shares, value, value_stride, count, out, stride):
    if num_rows == 4:
        sums_4(shares, 4 * KEYS, value, value_stride, count, out, stride)
    elif num_rows == 3:
        sums_3(shares, 4 * KEYS, value, value_stride, count, out, stride)
    elif num_rows == 2:
        sums_2(shares, 4 * KEYS, value, value_stride, count, out, stride)
    else:
        sums_1(shares, 4 * KEYS, value, value_stride, count, out, stride)


@njit(fastmath=FASTMATH)
def _add_rest(num_rows, shares, value, value_stride, count, out, first, dim):
    """What vectors did not reach: the last numbers of each value."""
    for row in range(num_rows):
        target, own = floats(out + 4 * row * dim, dim), floats(shares + 4 * row * KEYS, count)
        for i in range(count):
            numbers = floats(value + i * value_stride, dim)
            for j in range(first, dim):
                target[j] += own[i] * numbers[j]
