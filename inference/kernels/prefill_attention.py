"""Triton attention of several new tokens per sequence over the paged KV pool: tiles of tokens and heads.

Pools are `[num_blocks * block_size, num_kv_heads, head_dim]`; a table row lists a sequence's blocks in order.
"""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from inference.kernels.softmax_tile import NO_WINDOW, first_that_fits, padded_dim, precision, scaled_scores

# Tiles of keys, warps and pipeline stages: the quickest of a sweep on one H200, then what fits elsewhere.
SHAPES: tuple[dict[str, Any], ...] = (
    {"TILE": 64, "num_warps": 4, "num_stages": 2},
    {"TILE": 32, "num_warps": 4, "num_stages": 2},
    {"TILE": 16, "num_warps": 4, "num_stages": 2},
)
NUM_ROWS = 64  # of a tile: tokens times the heads of a group


@triton.jit
def _prefill(
    query, keys, values, tables, tiles, sequences, sinks, out, scale, cap, window, table_stride, q_stride,
    NUM_HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, DIM_TILE: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr, BLOCK_SIZE: tl.constexpr, NUM_ROWS: tl.constexpr, TILE: tl.constexpr,
    HAS_CAP: tl.constexpr, HAS_WINDOW: tl.constexpr, HAS_SINKS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A tile: some tokens of one sequence, with all heads of a group, against the sequence's keys so far."""
    tile, head = tl.program_id(0), tl.program_id(1)
    sequence = tl.load(tiles + 2 * tile)
    first_token = tl.load(tiles + 2 * tile + 1)  # within the sequence's new tokens
    table_row = tl.load(sequences + 4 * sequence)
    offset = tl.load(sequences + 4 * sequence + 1)  # of its first new token in the packed batch
    num_tokens = tl.load(sequences + 4 * sequence + 2)
    kv_len = tl.load(sequences + 4 * sequence + 3)
    table = tables + table_row.to(tl.int64) * table_stride
    row = tl.arange(0, NUM_ROWS)
    token = first_token + row // GROUP
    dim = tl.arange(0, DIM_TILE)
    is_dim, is_row = dim < DIM, (row < (NUM_ROWS // GROUP) * GROUP) & (token < num_tokens)
    place = (offset + token).to(tl.int64) * q_stride + (head * GROUP + row % GROUP) * DIM
    q_mask = is_row[:, None] & is_dim[None, :]
    q = tl.load(query + place[:, None] + dim[None, :], mask=q_mask, other=0.0)
    own = kv_len - num_tokens + token  # position of each row's token
    last = kv_len - num_tokens + tl.minimum(first_token + NUM_ROWS // GROUP, num_tokens)
    seen_by_all = (kv_len - num_tokens + first_token + 1) // TILE * TILE  # keys before it need no mask
    begin = 0
    if HAS_WINDOW:
        begin = tl.maximum(0, kv_len - num_tokens + first_token + 1 - window) // TILE * TILE
        seen_by_all = begin
    row_max = tl.full([NUM_ROWS], -1e30, tl.float32)
    row_sum = tl.zeros([NUM_ROWS], tl.float32)
    if HAS_SINKS:  # a key without a value
        row_max = tl.load(sinks + head * GROUP + row % GROUP).to(tl.float32) * 1.4426950408889634
        row_sum += 1.0
    acc = tl.zeros([NUM_ROWS, DIM_TILE], tl.float32)
    for first in range(begin, seen_by_all, TILE):
        row_max, row_sum, acc = _attend_tile(
            q, keys, values, table, first, own, last, window, row_max, row_sum, acc, scale, cap, head, DIM,
            DIM_TILE, NUM_KV_HEADS, BLOCK_SIZE, TILE, HAS_CAP, HAS_WINDOW, False, PRECISION,
        )  # fmt: skip
    for first in range(seen_by_all, last, TILE):
        row_max, row_sum, acc = _attend_tile(
            q, keys, values, table, first, own, last, window, row_max, row_sum, acc, scale, cap, head, DIM,
            DIM_TILE, NUM_KV_HEADS, BLOCK_SIZE, TILE, HAS_CAP, HAS_WINDOW, True, PRECISION,
        )  # fmt: skip
    acc = acc / tl.where(row_sum > 0, row_sum, 1.0)[:, None]
    to = (offset + token).to(tl.int64) * (NUM_HEADS * DIM) + (head * GROUP + row % GROUP) * DIM
    tl.store(out + to[:, None] + dim[None, :], acc.to(out.dtype.element_ty), mask=q_mask)


@triton.jit
def _attend_tile(
    q, keys, values, table, first, own, last, window, row_max, row_sum, acc, scale, cap, head,
    DIM: tl.constexpr, DIM_TILE: tl.constexpr, NUM_KV_HEADS: tl.constexpr, BLOCK_SIZE: tl.constexpr,
    TILE: tl.constexpr, HAS_CAP: tl.constexpr, HAS_WINDOW: tl.constexpr, IS_MASKED: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """One tile of keys added to the running softmax of all rows."""
    position = first + tl.arange(0, TILE)
    dim = tl.arange(0, DIM_TILE)
    is_key = position < last
    block = tl.load(table + position // BLOCK_SIZE, mask=is_key, other=0).to(tl.int64)
    key_row = ((block * BLOCK_SIZE + position % BLOCK_SIZE) * NUM_KV_HEADS + head) * DIM
    if DIM == DIM_TILE and not IS_MASKED:
        k = tl.load(keys + key_row[None, :] + dim[:, None])
        v = tl.load(values + key_row[:, None] + dim[None, :])
    else:
        is_dim = dim < DIM
        k = tl.load(keys + key_row[None, :] + dim[:, None], mask=is_key[None, :] & is_dim[:, None], other=0.0)
        v = tl.load(
            values + key_row[:, None] + dim[None, :], mask=is_key[:, None] & is_dim[None, :], other=0.0
        )
    scores = scaled_scores(q, k.to(q.dtype), scale, cap, HAS_CAP, PRECISION)
    if IS_MASKED:
        is_seen = position[None, :] <= own[:, None]
        if HAS_WINDOW:
            is_seen = is_seen & (position[None, :] > own[:, None] - window)
        scores = tl.where(is_seen, scores, -1e30)
    new_max = tl.maximum(row_max, tl.max(scores, 1))
    weights = tl.exp2(scores - new_max[:, None])
    if IS_MASKED and HAS_WINDOW:  # a tile may hide every key from a row, whose best is then no score
        weights = tl.where(scores > -1e29, weights, 0.0)
    alpha = tl.exp2(row_max - new_max)
    acc = acc * alpha[:, None] + tl.dot(weights.to(q.dtype), v.to(q.dtype), input_precision=PRECISION)
    return new_max, row_sum * alpha + tl.sum(weights, 1), acc


def prefill_attention(
    query: Tensor,  # [num_tokens, num_heads, head_dim], heads and dims contiguous
    keys: Tensor,
    values: Tensor,
    out: Tensor,  # [num_tokens, num_heads, head_dim], contiguous
    *,
    tables: Tensor,  # [num_rows, max_blocks], int32
    tiles: Tensor,  # [num_tiles, 2], int32: sequence, first of its new tokens; `tokens_per_tile` apart
    sequences: Tensor,  # [num_sequences, 4], int32: row of `tables`, offset in the batch, new tokens, keys
    block_size: int,
    scaling: float,
    window: int,
    softcap: float,
    sinks: Tensor | None,
) -> None:
    """Several new tokens per sequence, each attending to all that came before it and to itself."""
    _, num_heads, dim = query.shape
    num_kv_heads = keys.shape[1]
    group = num_heads // num_kv_heads
    num_rows = num_tile_rows(group)
    _prefill[(tiles.shape[0], num_kv_heads)](
        query, keys, values, tables, tiles, sequences, query if sinks is None else sinks, out, scaling,
        softcap, window, tables.stride(0), query.stride(0), NUM_HEADS=num_heads, GROUP=group, DIM=dim,
        DIM_TILE=padded_dim(dim), NUM_KV_HEADS=num_kv_heads, BLOCK_SIZE=block_size,
        NUM_ROWS=num_rows, HAS_CAP=softcap > 0, HAS_WINDOW=window < NO_WINDOW,
        HAS_SINKS=sinks is not None, PRECISION=precision(query),
        **first_that_fits(SHAPES, query, num_rows=num_rows),
    )  # fmt: skip


def num_tile_rows(group: int) -> int:
    """Rows of a prefill tile: tokens times the heads of a group."""
    return max(NUM_ROWS, triton.next_power_of_2(group))


def tokens_per_tile(group: int) -> int:
    """New tokens that one prefill tile covers."""
    return num_tile_rows(group) // group
