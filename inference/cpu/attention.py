"""Attention straight from the pool's blocks: no key or value is copied, no row padded.

A share is one key-value head and a few tokens of one sequence; where a sequence has no more tokens, as in
decode, one part of its keys, so that one long sequence is work for all threads. The tokens' query heads are
the rows of small products with the keys; the keys come by parts, each with a softmax of its own. Parts are
combined in their order, whichever thread computed them, and begin at the same positions whatever the step
holds: a token's output is the same to the bit in a chunk, alone, after a cached prefix, and in any batch.
"""

from __future__ import annotations

import numpy as np
from numba import njit
from numba.extending import register_jitable

from inference.cpu.atomics import (
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
from inference.cpu.vectors import VECTORS, lanes, prefetch, step_of, tile, weighted_sum

SEQUENCE = np.dtype(
    [
        ("offset", np.int64),  # of its first token in the batch
        ("num_tokens", np.int64),
        ("kv_len", np.int64),  # keys that the last token may see, itself included
        ("table", np.int64),  # address of its blocks' numbers, int64
        ("first_share", np.int64),  # of the shares of all sequences
        ("partials", np.int64),  # address of its parts' partial results, `partial_floats` float32
    ]
)
HEADS = np.dtype([(name, np.int64) for name in ("num_heads", "num_kv_heads", "head_dim", "block_size")])

ROWS = 24  # query heads that a share takes at once, where one token has no more
PART = 128  # keys with a softmax of their own; of a share, where the keys are shared out
KEYS_AT_ONCE = 4  # of a block that are scored together

MASKED = np.float32(-np.inf)
ZERO = np.float32(0.0)

scores_4x4, scores_3x4, scores_2x4 = tile("float32", 4, 4), tile("float32", 3, 4), tile("float32", 2, 4)
scores_1x4, scores_1x1 = tile("float32", 1, 4), tile("float32", 1, 1)
sums_4, sums_3, sums_2, sums_1 = weighted_sum(4), weighted_sum(3), weighted_sum(2), weighted_sum(1)
STEP = step_of("float32")
WIDTH = VECTORS * lanes()


@register_jitable
def tokens_at_once(heads):
    """Tokens of one share."""
    return max(1, ROWS // (heads["num_heads"] // heads["num_kv_heads"]))


@register_jitable
def num_parts(sequence, heads):
    """Parts of the keys; those outside a layer's window are skipped when reached."""
    if sequence["num_tokens"] > tokens_at_once(heads):
        return 1
    return -(-sequence["kv_len"] // PART)


@register_jitable
def num_shares(sequence, heads):
    tiles = -(-sequence["num_tokens"] // tokens_at_once(heads))
    return tiles * num_parts(sequence, heads) * heads["num_kv_heads"]


@register_jitable
def partial_floats(sequence, heads):
    """For each part and query head the sum of values, the highest score and the sum of weights."""
    parts = num_parts(sequence, heads)
    return parts * sequence["num_tokens"] * heads["num_heads"] * (heads["head_dim"] + 2) if parts > 1 else 0


@register_jitable
def scratch_floats(heads):
    """float32 numbers that a thread needs for itself: queries, a part's sums and those of all before it, with
    two numbers a row each, scores, a tile.
    """
    rows = tokens_at_once(heads) * (heads["num_heads"] // heads["num_kv_heads"])
    return rows * (3 * heads["head_dim"] + PART + 4) + 64


@njit
def attend(sequence, share, heads, keys, values, scaling, window, queries, stride, out, scratch):
    """Attention of one share's tokens, of one part of the keys where these are shared out.

    `queries`: address of float32 [num_tokens of the batch, stride], whose first num_heads * head_dim numbers
    are the rotated queries; `out`: of float32 [num_tokens, num_heads * head_dim]; keys and values: of the
    layer's pool, float32 [slots, num_kv_heads, head_dim]; `window`: positions that a token sees, itself
    included; 0: all. `scratch`: of `scratch_floats` float32 for this thread alone.
    """
    dim, group, parts = heads.head_dim, heads.num_heads // heads.num_kv_heads, num_parts(sequence, heads)
    kv_head, place = share % heads.num_kv_heads, share // heads.num_kv_heads
    first = place * tokens_at_once(heads) if parts == 1 else 0
    num_tokens = min(tokens_at_once(heads), sequence.num_tokens - first)
    num_rows = num_tokens * group
    size = num_rows * (dim + 2)
    whole = scratch + 4 * num_rows * dim
    sums = sequence.partials + 4 * share * size if parts > 1 else whole + 4 * size
    scores = whole + 8 * size
    head_offset = 4 * kv_head * group * dim
    for token in range(num_tokens):
        source = queries + 4 * (sequence.offset + first + token) * stride + head_offset
        _scale(floats(source, group * dim), scaling, floats(scratch + 4 * token * group * dim, group * dim))
    seen = sequence.kv_len - sequence.num_tokens + first + 1  # keys of the share's first token, with its own
    end = seen + num_tokens - 1
    part, last = (max(0, seen - window) if window else 0) // PART, (end - 1) // PART + 1
    if parts > 1:
        part, last = place, place + 1
    _clear(whole, num_rows, dim)
    while part < last:
        _attend_part(
            sequence, heads, keys + 4 * kv_head * dim, values + 4 * kv_head * dim, window, scratch, num_rows,
            seen, part * PART, end, scores, sums,
        )  # fmt: skip
        if parts == 1:
            _merge_rows(sums, num_rows, dim, whole)
        part += 1
    if parts > 1:
        return
    _, weights = _row_stats(whole, num_rows, dim)
    for row in range(num_rows):
        token = sequence.offset + first + row // group
        target = out + 4 * (token * heads.num_heads + kv_head * group + row % group) * dim
        _scale(floats(whole + 4 * row * dim, dim), ONE / weights[row], floats(target, dim))


@njit
def _clear(sums, num_rows, dim):
    """Room for sums of values [num_rows, dim], the highest score and the sum of weights of each row."""
    highest, weights = _row_stats(sums, num_rows, dim)
    fill(floats(sums, num_rows * dim), ZERO)
    fill(highest, MASKED)
    fill(weights, ZERO)


@njit
def _row_stats(sums, num_rows, dim):
    """Views of the highest scores and the sums of weights, [num_rows] each, behind the sums of values."""
    place = sums + 4 * num_rows * dim
    return floats(place, num_rows), floats(place + 4 * num_rows, num_rows)


@njit
def _attend_part(sequence, heads, keys, values, window, rows, num_rows, seen, start, end, scores, sums):
    """Partial attention over one part of the keys, from `start` on; those from `end` on are masked."""
    dim, group = heads.head_dim, heads.num_heads // heads.num_kv_heads
    slot_bytes = 4 * heads.num_kv_heads * dim
    count = min(PART, end - start)
    highest, weights = _row_stats(sums, num_rows, dim)
    _clear(sums, num_rows, dim)
    if count <= 0 or (window and start + count <= seen - window):
        return
    _fetch(sequence, heads, values, slot_bytes, start, count)
    dots = scores + 4 * num_rows * PART
    _score(sequence, heads, keys, slot_bytes, rows, num_rows, start, count, scores, dots)
    for row in range(num_rows):
        own = seen + row // group
        line = floats(scores + 4 * row * PART, PART)
        fill(line[max(0, min(count, own - start)) :], MASKED)
        if window:
            fill(line[: max(0, min(count, own - window - start))], MASKED)
        highest[row], weights[row] = _softmax_part(line)
    _sum_values(sequence, heads, values, slot_bytes, scores, num_rows, start, count, sums)


@njit
def _merge_rows(sums, num_rows, dim, whole):
    """Merges a part's rows into the running ones, both laid out as by `_clear`."""
    highest, own = _row_stats(sums, num_rows, dim)
    top, weight = _row_stats(whole, num_rows, dim)
    for row in range(num_rows):
        if highest[row] != MASKED:
            part, target = floats(sums + 4 * row * dim, dim), floats(whole + 4 * row * dim, dim)
            top[row], weight[row] = _merge(part, highest[row], own[row], target, top[row], weight[row])


@njit
def combine_parts(sequence, token, heads, out):
    """One token's attention from the partial results of all parts: float32 [num_heads, head_dim] to `out`."""
    dim, group, parts = heads.head_dim, heads.num_heads // heads.num_kv_heads, num_parts(sequence, heads)
    if parts == 1:
        return
    num_rows = sequence.num_tokens * group
    size = 4 * num_rows * (dim + 2)  # bytes of a share
    for head in range(heads.num_heads):
        row = token * group + head % group
        first = sequence.partials + head // group * size
        target = floats(out + 4 * head * dim, dim)
        fill(target, ZERO)
        top, weight = MASKED, ZERO
        for part in range(parts):
            sums = first + part * heads.num_kv_heads * size
            highest, own = _row_stats(sums, num_rows, dim)
            if highest[row] != MASKED:
                values = floats(sums + 4 * row * dim, dim)
                top, weight = _merge(values, highest[row], own[row], target, top, weight)
        _scale(target, ONE / weight, target)


@njit(fastmath=FASTMATH)
def _merge(sums, highest, own, target, top, weight):
    """Merges a part's softmax state into the running one; returns the highest score and sum of weights."""
    before, added = ONE, ONE
    if top == MASKED:
        before, top = ZERO, highest
    elif _ordered(highest) > _ordered(top):
        before, top = exponential(top - highest), highest
    else:
        added = exponential(highest - top)
    for i in range(len(sums)):
        target[i] = target[i] * before + sums[i] * added
    return top, weight * before + own * added


@njit(fastmath=FASTMATH)
def _scale(source, factor, target):
    for i in range(len(target)):
        target[i] = source[i] * np.float32(factor)


@njit
def _fetch(sequence, heads, pool, slot_bytes, start, count):
    """Has the CPU fetch the keys, or values, of `count` positions."""
    size, end = heads.block_size, start + count
    table = longs(sequence.table, (end - 1) // size + 1)
    while start < end:
        block = start // size
        inside = start - block * size
        together = min(size - inside, end - start)
        _fetch_slots(pool + (table[block] * size + inside) * slot_bytes, together, slot_bytes, heads)
        start += together


@njit
def _fetch_slots(address, count, slot_bytes, heads):
    for slot in range(address, address + count * slot_bytes, slot_bytes):
        for line in range(slot, slot + 4 * heads.head_dim, 64):
            prefetch(line)


@njit
def _score(sequence, heads, keys, slot_bytes, rows, num_rows, start, count, scores, dots):
    """Products of all rows with `count` keys from position `start` on, to float32 [num_rows, PART].

    While a block's keys are scored, those of the next one are fetched. Which keys are scored together depends
    on their places in block and part alone, so up to three behind the last are scored as well.
    """
    dim, size = heads.head_dim, heads.block_size
    row_bytes = 4 * dim
    table = longs(sequence.table, (start + count - 1) // size + 1)
    done = 0
    while done < count:
        block = (start + done) // size
        inside = start + done - block * size
        together = min(size - inside, PART - done)
        key = keys + (table[block] * size + inside) * slot_bytes
        ahead = max(0, min(size, count - done - together))  # keys of the next block
        following = keys + table[block + 1] * size * slot_bytes if ahead else key
        within = 0
        while within < min(together, count - done):
            width = KEYS_AT_ONCE if within + KEYS_AT_ONCE <= together else 1
            _fetch_slots(
                following + within * slot_bytes, max(0, min(width, ahead - within)), slot_bytes, heads
            )
            row = 0
            while row < num_rows:
                taken = min(4, num_rows - row) if width == KEYS_AT_ONCE else 1
                _dots(rows + row * row_bytes, row_bytes, key, slot_bytes, dim, taken, width, dots)
                found = floats(dots, taken * width)
                for i in range(taken):
                    line = floats(scores + 4 * (row + i) * PART + 4 * (done + within), width)
                    for j in range(width):
                        line[j] = found[i * width + j]
                row += taken
            key += width * slot_bytes
            within += width
        done += together


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
def _softmax_part(line):
    """The unnormalized softmax of a part's PART scores, in place; returns the highest score and the sum.

    Always of PART numbers: the order of a sum must not depend on how many keys there are.
    """
    most = _ordered(MASKED)
    for i in range(PART):
        most = max(most, _ordered(line[i]))  # of whole numbers a loop becomes vectors; NaN is the most
    top = from_bits(np.int32(most ^ ((most >> np.int32(31)) & MAGNITUDE)))
    if top == MASKED:  # nothing is seen
        fill(line, ZERO)
        return top, ZERO
    total = ZERO
    for i in range(PART):
        share = exponential(line[i] - top)
        share = ZERO if line[i] == MASKED else share
        line[i] = share
        total += share
    return top, total


@njit
def _ordered(number):
    """An int32 that grows with a float32; a NaN's is more than that of infinity."""
    found = bits(number)
    ordered = np.int32(found ^ ((found >> np.int32(31)) & MAGNITUDE))
    return MAGNITUDE if np.int32(found & MAGNITUDE) > INFINITE else ordered


@njit(fastmath=FASTMATH)
def _sum_values(sequence, heads, values, slot_bytes, scores, num_rows, start, count, sums):
    """Adds `count` values, each times its share, to float32 [num_rows, head_dim]."""
    dim, size = heads.head_dim, heads.block_size
    table = longs(sequence.table, (start + count - 1) // size + 1)
    vectors = dim - dim % WIDTH
    done = 0
    while done < count:
        block = (start + done) // size
        inside = start + done - block * size
        together = min(size - inside, count - done)
        value = values + (table[block] * size + inside) * slot_bytes
        row = 0
        while row < num_rows:
            taken = min(4, num_rows - row)
            shares = scores + 4 * (row * PART + done)
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
        sums_4(shares, 4 * PART, value, value_stride, count, out, stride)
    elif num_rows == 3:
        sums_3(shares, 4 * PART, value, value_stride, count, out, stride)
    elif num_rows == 2:
        sums_2(shares, 4 * PART, value, value_stride, count, out, stride)
    else:
        sums_1(shares, 4 * PART, value, value_stride, count, out, stride)


@njit(fastmath=FASTMATH)
def _add_rest(num_rows, shares, value, value_stride, count, out, first, dim):
    """The scalar tail: the last numbers of each value, which fill no vector."""
    for row in range(num_rows):
        target, own = floats(out + 4 * row * dim, dim), floats(shares + 4 * row * PART, count)
        for i in range(count):
            numbers = floats(value + i * value_stride, dim)
            for j in range(first, dim):
                target[j] += own[i] * numbers[j]
