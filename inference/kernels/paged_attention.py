"""Triton attention over the paged KV pool: split-KV decode, the heads of a group packed, and varlen prefill.

Pools are `[num_blocks * block_size, num_kv_heads, head_dim]`; a table row lists a sequence's blocks in order.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

NO_WINDOW = 2**30
# Tiles of keys, warps and pipeline stages, the quickest of a sweep on one H200: docs/benchmarks.md.
DECODE = {"TILE": 64, "num_warps": 2, "num_stages": 3}
DECODE_WIDE = {"TILE": 32, "num_warps": 4, "num_stages": 3}
PREFILL = {"TILE": 64, "num_warps": 4, "num_stages": 3}
PREFILL_WIDE = {"TILE": 32, "num_warps": 8, "num_stages": 2}
SMALLEST_DOT = 16  # tl.dot multiplies tiles of at least this many rows and columns
MAX_SPLITS = 32
NUM_WAVES = 4  # programs per multiprocessor that a small decode batch is split into


@triton.jit
def _scores(q, k, scale, cap, HAS_CAP: tl.constexpr, PRECISION: tl.constexpr):
    """Base-2 scores of a tile."""
    scores = tl.dot(q, k, input_precision=PRECISION) * scale
    if HAS_CAP:
        scores = cap * (2.0 * tl.sigmoid(2.0 * scores / cap) - 1.0)  # cap * tanh(score / cap)
    return scores * 1.4426950408889634


@triton.jit
def _decode(
    query, keys, values, tables, rows, lens, out, lse, scale, cap, window, table_stride,
    SPLITS: tl.constexpr, GROUP: tl.constexpr, GROUP_TILE: tl.constexpr, DIM: tl.constexpr,
    DIM_TILE: tl.constexpr, NUM_KV_HEADS: tl.constexpr, BLOCK_SIZE: tl.constexpr, TILE: tl.constexpr,
    HAS_CAP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    sequence, head, split = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    kv_len = tl.load(lens + sequence)
    table = tables + tl.load(rows + sequence).to(tl.int64) * table_stride
    begin = tl.maximum(0, kv_len - window)
    per_split = tl.cdiv(tl.cdiv(kv_len - begin, SPLITS), TILE) * TILE
    low = begin + split * per_split
    high = tl.minimum(low + per_split, kv_len)
    member, dim = tl.arange(0, GROUP_TILE), tl.arange(0, DIM_TILE)
    heads = (sequence * NUM_KV_HEADS + head) * GROUP + member
    is_member, is_dim = member < GROUP, dim < DIM
    q_mask = is_member[:, None] & is_dim[None, :]
    q = tl.load(query + heads[:, None] * DIM + dim[None, :], mask=q_mask, other=0.0)
    best = tl.full([GROUP_TILE], -1e30, tl.float32)
    total = tl.zeros([GROUP_TILE], tl.float32)
    mixed = tl.zeros([GROUP_TILE, DIM_TILE], tl.float32)
    for first in range(low, high, TILE):
        position = first + tl.arange(0, TILE)
        is_key = position < high
        block = tl.load(table + position // BLOCK_SIZE, mask=is_key, other=0).to(tl.int64)
        row = ((block * BLOCK_SIZE + position % BLOCK_SIZE) * NUM_KV_HEADS + head) * DIM
        k = tl.load(keys + row[None, :] + dim[:, None], mask=is_key[None, :] & is_dim[:, None], other=0.0)
        scores = _scores(q, k, scale, cap, HAS_CAP, PRECISION)
        scores = tl.where(is_key[None, :], scores, -1e30)
        new_best = tl.maximum(best, tl.max(scores, 1))
        weights = tl.exp2(scores - new_best[:, None])
        shrink = tl.exp2(best - new_best)
        v = tl.load(values + row[:, None] + dim[None, :], mask=is_key[:, None] & is_dim[None, :], other=0.0)
        mixed = mixed * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
        total = total * shrink + tl.sum(weights, 1)
        best = new_best
    safe = tl.where(total > 0, total, 1.0)
    if SPLITS == 1:
        tl.store(
            out + heads[:, None] * DIM + dim[None, :],
            (mixed / safe[:, None]).to(out.dtype.element_ty),
            mask=q_mask,
        )
    else:
        part = heads * SPLITS + split
        tl.store(out + part[:, None] * DIM + dim[None, :], mixed / safe[:, None], mask=q_mask)
        tl.store(lse + part, tl.where(total > 0, best + tl.log2(safe), -1e30), mask=is_member)


@triton.jit
def _reduce(parts, lse, out, SPLITS: tl.constexpr, DIM: tl.constexpr, DIM_TILE: tl.constexpr):
    """Parts of one head, each with the logarithm of its weight -> the head's output."""
    head = tl.program_id(0)
    split, dim = tl.arange(0, SPLITS), tl.arange(0, DIM_TILE)
    weights = tl.load(lse + head * SPLITS + split)
    weights = tl.exp2(weights - tl.max(weights, 0))
    weights = weights / tl.sum(weights, 0)
    mask = dim < DIM
    part = tl.load(
        parts + (head * SPLITS + split)[:, None] * DIM + dim[None, :], mask=mask[None, :], other=0.0
    )
    mixed = tl.sum(part * weights[:, None], 0)
    tl.store(out + head * DIM + dim, mixed.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _prefill(
    query, keys, values, tables, tiles, sequences, out, scale, cap, window, table_stride, q_stride,
    NUM_HEADS: tl.constexpr, GROUP: tl.constexpr, DIM: tl.constexpr, DIM_TILE: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr, BLOCK_SIZE: tl.constexpr, NUM_ROWS: tl.constexpr, TILE: tl.constexpr,
    HAS_CAP: tl.constexpr, HAS_WINDOW: tl.constexpr, PRECISION: tl.constexpr,
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
    best = tl.full([NUM_ROWS], -1e30, tl.float32)
    total = tl.zeros([NUM_ROWS], tl.float32)
    mixed = tl.zeros([NUM_ROWS, DIM_TILE], tl.float32)
    for first in range(begin, seen_by_all, TILE):
        best, total, mixed = _attend_tile(
            q, keys, values, table, first, own, last, window, best, total, mixed, scale, cap, head, DIM,
            DIM_TILE, NUM_KV_HEADS, BLOCK_SIZE, TILE, HAS_CAP, HAS_WINDOW, False, PRECISION,
        )  # fmt: skip
    for first in range(seen_by_all, last, TILE):
        best, total, mixed = _attend_tile(
            q, keys, values, table, first, own, last, window, best, total, mixed, scale, cap, head, DIM,
            DIM_TILE, NUM_KV_HEADS, BLOCK_SIZE, TILE, HAS_CAP, HAS_WINDOW, True, PRECISION,
        )  # fmt: skip
    mixed = mixed / tl.where(total > 0, total, 1.0)[:, None]
    to = (offset + token).to(tl.int64) * (NUM_HEADS * DIM) + (head * GROUP + row % GROUP) * DIM
    tl.store(out + to[:, None] + dim[None, :], mixed.to(out.dtype.element_ty), mask=q_mask)


@triton.jit
def _attend_tile(
    q, keys, values, table, first, own, last, window, best, total, mixed, scale, cap, head,
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
    scores = _scores(q, k, scale, cap, HAS_CAP, PRECISION)
    if IS_MASKED:
        is_seen = position[None, :] <= own[:, None]
        if HAS_WINDOW:
            is_seen = is_seen & (position[None, :] > own[:, None] - window)
        scores = tl.where(is_seen, scores, -1e30)
    new_best = tl.maximum(best, tl.max(scores, 1))
    weights = tl.exp2(scores - new_best[:, None])
    if IS_MASKED and HAS_WINDOW:  # a tile may hide every key from a row, whose best is then no score
        weights = tl.where(scores > -1e29, weights, 0.0)
    shrink = tl.exp2(best - new_best)
    mixed = mixed * shrink[:, None] + tl.dot(weights.to(v.dtype), v, input_precision=PRECISION)
    return new_best, total * shrink + tl.sum(weights, 1), mixed


def num_splits(batch_size: int, num_kv_heads: int, num_multiprocessors: int) -> int:
    """Into how many parts each sequence's keys are cut, so that a small batch keeps the whole GPU busy."""
    splits = 1
    while splits < MAX_SPLITS and 2 * splits * batch_size * num_kv_heads <= NUM_WAVES * num_multiprocessors:
        splits *= 2
    return splits


def decode_attention(
    query: Tensor,  # [batch, num_heads, head_dim], contiguous
    keys: Tensor,
    values: Tensor,
    out: Tensor,  # like query
    *,
    tables: Tensor,  # [num_rows, max_blocks], int32
    rows: Tensor,  # [batch], each sequence's row of `tables`
    lens: Tensor,  # [batch], keys to attend to, the token's own included
    block_size: int,
    splits: int,
    scaling: float,
    window: int,  # a token sees the last `window` positions
    softcap: float,  # 0: none
) -> None:
    """One token per sequence. Launches the same grid whatever the lengths: fit for a CUDA graph."""
    batch, num_heads, dim = query.shape
    num_kv_heads = keys.shape[1]
    group = num_heads // num_kv_heads
    dim_tile = max(SMALLEST_DOT, triton.next_power_of_2(dim))
    parts, lse = out, out
    if splits > 1:
        parts = torch.empty(batch * num_heads, splits, dim, device=query.device, dtype=torch.float32)
        lse = torch.empty(batch * num_heads, splits, device=query.device, dtype=torch.float32)
    _decode[(batch, num_kv_heads, splits)](
        query, keys, values, tables, rows, lens, parts, lse, scaling, softcap, window, tables.stride(0),
        SPLITS=splits, GROUP=group, GROUP_TILE=max(SMALLEST_DOT, triton.next_power_of_2(group)), DIM=dim,
        DIM_TILE=dim_tile, NUM_KV_HEADS=num_kv_heads, BLOCK_SIZE=block_size,
        HAS_CAP=softcap > 0, PRECISION=_precision(query), **(DECODE if dim_tile <= 128 else DECODE_WIDE),
    )  # fmt: skip
    if splits > 1:
        _reduce[(batch * num_heads,)](parts, lse, out, SPLITS=splits, DIM=dim, DIM_TILE=dim_tile)


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
) -> None:
    """Several new tokens per sequence, each attending to all that came before it and to itself."""
    _, num_heads, dim = query.shape
    num_kv_heads = keys.shape[1]
    dim_tile = max(SMALLEST_DOT, triton.next_power_of_2(dim))
    shape = PREFILL_WIDE if dim_tile > 128 or query.dtype == torch.float32 else PREFILL
    _prefill[(tiles.shape[0], num_kv_heads)](
        query, keys, values, tables, tiles, sequences, out, scaling, softcap, window, tables.stride(0),
        query.stride(0), NUM_HEADS=num_heads, GROUP=num_heads // num_kv_heads, DIM=dim, DIM_TILE=dim_tile,
        NUM_KV_HEADS=num_kv_heads, BLOCK_SIZE=block_size, NUM_ROWS=num_tile_rows(num_heads // num_kv_heads),
        HAS_CAP=softcap > 0, HAS_WINDOW=window < NO_WINDOW, PRECISION=_precision(query), **shape,
    )  # fmt: skip


def num_tile_rows(group: int) -> int:
    """Rows of a prefill tile: tokens times the heads of a group."""
    return max(128, triton.next_power_of_2(group))


def tokens_per_tile(group: int) -> int:
    """New tokens that one prefill tile covers."""
    return num_tile_rows(group) // group


def _precision(query: Tensor) -> str:
    """float32 is multiplied as such: it is what tests compare with `generate`."""
    return "ieee" if query.dtype == torch.float32 else "tf32"
