"""Triton attention of single tokens over the paged KV pool: keys in even parts, a group's heads packed.

Pools are `[num_blocks * block_size, num_kv_heads, head_dim]`; a table row lists a sequence's blocks in order.
The host decides on the parts (attention/split_kv.py): a sequence of one part is written at once, the parts of
others are combined by a second kernel.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference.kernels.launch import pdl_arguments, wait_for_predecessor
from inference.kernels.softmax_tile import (
    SMALLEST_DOT,
    first_that_fits,
    padded_dim,
    precision,
    scaled_scores,
)

# Tiles of keys, warps and pipeline stages: the quickest of a sweep on one H200, then what fits elsewhere.
SHAPES: tuple[dict[str, Any], ...] = (
    {"TILE": 128, "num_warps": 4, "num_stages": 2},
    {"TILE": 64, "num_warps": 2, "num_stages": 2},
    {"TILE": 32, "num_warps": 4, "num_stages": 2},
    {"TILE": 16, "num_warps": 4, "num_stages": 2},
)
PARTS_TILE = 16  # parts that are combined at a time


@triton.jit
def _attend_part(
    query, keys, values, tables, rows, lens, items, sinks, out, partial_out, partial_lse, scale, cap, window,
    table_stride, GROUP: tl.constexpr, GROUP_TILE: tl.constexpr, DIM: tl.constexpr, DIM_TILE: tl.constexpr,
    NUM_KV_HEADS: tl.constexpr, BLOCK_SIZE: tl.constexpr, TILE: tl.constexpr, HAS_CAP: tl.constexpr,
    HAS_SINKS: tl.constexpr, PRECISION: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One part of a sequence's keys, for one group of heads; its metadata depends on no kernel before it."""
    item, head = tl.program_id(0), tl.program_id(1)
    sequence = tl.load(items + 4 * item)
    part = tl.load(items + 4 * item + 1)
    num_parts = tl.load(items + 4 * item + 2)
    place = tl.load(items + 4 * item + 3)
    kv_len = tl.load(lens + sequence)
    table = tables + tl.load(rows + sequence).to(tl.int64) * table_stride
    begin = tl.maximum(0, kv_len - window)
    per_part = tl.cdiv(tl.cdiv(kv_len - begin, tl.maximum(num_parts, 1)), TILE) * TILE
    low = begin + part * per_part
    high = tl.minimum(low + per_part, kv_len)
    wait_for_predecessor(PDL)
    if num_parts == 0:
        return
    member, dim = tl.arange(0, GROUP_TILE), tl.arange(0, DIM_TILE)
    group_heads = head * GROUP + member
    heads = sequence * (NUM_KV_HEADS * GROUP) + group_heads
    is_member, is_dim = member < GROUP, dim < DIM
    q_mask = is_member[:, None] & is_dim[None, :]
    q = tl.load(query + heads[:, None] * DIM + dim[None, :], mask=q_mask, other=0.0)
    row_max = tl.full([GROUP_TILE], -1e30, tl.float32)
    row_sum = tl.zeros([GROUP_TILE], tl.float32)
    if HAS_SINKS:  # a key without a value, in the first part
        sink = tl.load(sinks + group_heads, mask=is_member, other=-1e30).to(tl.float32) * 1.4426950408889634
        row_max = tl.where(part == 0, sink, row_max)
        row_sum = tl.where(part == 0, 1.0, row_sum)
    acc = tl.zeros([GROUP_TILE, DIM_TILE], tl.float32)
    for first in range(low, high, TILE):
        position = first + tl.arange(0, TILE)
        is_key = position < high
        block = tl.load(table + position // BLOCK_SIZE, mask=is_key, other=0).to(tl.int64)
        row = ((block * BLOCK_SIZE + position % BLOCK_SIZE) * NUM_KV_HEADS + head) * DIM
        k = tl.load(keys + row[None, :] + dim[:, None], mask=is_key[None, :] & is_dim[:, None], other=0.0)
        scores = scaled_scores(q, k.to(q.dtype), scale, cap, HAS_CAP, PRECISION)
        scores = tl.where(is_key[None, :], scores, -1e30)
        new_max = tl.maximum(row_max, tl.max(scores, 1))
        weights = tl.exp2(scores - new_max[:, None])
        alpha = tl.exp2(row_max - new_max)
        v = tl.load(values + row[:, None] + dim[None, :], mask=is_key[:, None] & is_dim[None, :], other=0.0)
        acc = acc * alpha[:, None] + tl.dot(weights.to(q.dtype), v.to(q.dtype), input_precision=PRECISION)
        row_sum = row_sum * alpha + tl.sum(weights, 1)
        row_max = new_max
    acc = acc / tl.where(row_sum > 0, row_sum, 1.0)[:, None]
    if num_parts == 1:
        tl.store(out + heads[:, None] * DIM + dim[None, :], acc.to(out.dtype.element_ty), mask=q_mask)
    else:
        mix = place * (NUM_KV_HEADS * GROUP) + group_heads
        tl.store(partial_out + mix[:, None] * DIM + dim[None, :], acc, mask=q_mask)
        weight = tl.where(row_sum > 0, row_max + tl.log2(tl.where(row_sum > 0, row_sum, 1.0)), -1e30)
        tl.store(partial_lse + mix, weight, mask=is_member)


@triton.jit
def _combine_parts(
    partial_out, partial_lse, parts, out, NUM_HEADS: tl.constexpr, GROUP: tl.constexpr,
    GROUP_TILE: tl.constexpr, DIM: tl.constexpr, DIM_TILE: tl.constexpr, PARTS_TILE: tl.constexpr,
    PDL: tl.constexpr,
):  # fmt: skip
    """A sequence's parts, each with its log-sum-exp (base 2) -> the output of a group of heads."""
    sequence, group = tl.program_id(0), tl.program_id(1)
    first = tl.load(parts + 2 * sequence)
    num_parts = tl.load(parts + 2 * sequence + 1)
    wait_for_predecessor(PDL)
    if num_parts == 1:
        return
    member, dim, index = tl.arange(0, GROUP_TILE), tl.arange(0, DIM_TILE), tl.arange(0, PARTS_TILE)
    heads = group * GROUP + member
    is_member = member < GROUP
    is_value = is_member[:, None] & (dim < DIM)[None, :]
    row_max = tl.full([GROUP_TILE], -1e30, tl.float32)
    row_sum = tl.zeros([GROUP_TILE], tl.float32)
    acc = tl.zeros([GROUP_TILE, DIM_TILE], tl.float32)
    for done in range(0, num_parts, PARTS_TILE):
        is_part = done + index < num_parts
        mix = (first + done + index)[:, None] * NUM_HEADS + heads[None, :]
        mask = is_part[:, None] & is_member[None, :]
        weight = tl.load(partial_lse + mix, mask=mask, other=-1e30)
        new_max = tl.maximum(row_max, tl.max(weight, 0))
        share = tl.where(mask, tl.exp2(weight - new_max[None, :]), 0.0)
        alpha = tl.exp2(row_max - new_max)
        values = partial_out + mix[:, :, None] * DIM + dim[None, None, :]
        part = tl.load(values, mask=is_part[:, None, None] & is_value[None, :, :], other=0.0)
        acc = acc * alpha[:, None] + tl.sum(part * share[:, :, None], 0)
        row_sum = row_sum * alpha + tl.sum(share, 0)
        row_max = new_max
    acc = acc / tl.where(is_member, row_sum, 1.0)[:, None]
    place = (sequence * NUM_HEADS + heads) * DIM
    tl.store(out + place[:, None] + dim[None, :], acc.to(out.dtype.element_ty), mask=is_value)


def decode_attention(
    query: Tensor,  # [batch, num_heads, head_dim], contiguous
    keys: Tensor,
    values: Tensor,
    out: Tensor,  # like query
    *,
    tables: Tensor,  # [num_rows, max_blocks], int32
    rows: Tensor,  # [batch], each sequence's row of `tables`
    lens: Tensor,  # [batch], keys to attend to, the token's own included
    items: Tensor,  # [num_items, 4], int32: sequence, part, parts of it, where a part of several goes
    parts: Tensor,  # [batch, 2], int32: where the sequence's first part goes, how many there are
    block_size: int,
    scaling: float,
    window: int,  # a token sees the last `window` positions
    softcap: float,  # 0: none
    sinks: Tensor | None,  # [num_heads]: a score that takes its share and brings nothing
) -> None:
    """One token per sequence. Launches the same grid whatever the lengths: fit for a CUDA graph."""
    batch, num_heads, dim = query.shape
    num_items, num_kv_heads = items.shape[0], keys.shape[1]
    group = num_heads // num_kv_heads
    group_tile = max(SMALLEST_DOT, triton.next_power_of_2(group))
    shape = first_that_fits(SHAPES, query, num_rows=group_tile)
    partial_out = torch.empty(num_items, num_heads, dim, device=query.device, dtype=torch.float32)
    partial_lse = torch.empty(num_items, num_heads, device=query.device, dtype=torch.float32)
    _attend_part[(num_items, num_kv_heads)](
        query, keys, values, tables, rows, lens, items, query if sinks is None else sinks, out, partial_out,
        partial_lse, scaling, softcap, window, tables.stride(0), GROUP=group,
        GROUP_TILE=group_tile, DIM=dim, DIM_TILE=padded_dim(dim),
        NUM_KV_HEADS=num_kv_heads, BLOCK_SIZE=block_size, HAS_CAP=softcap > 0, HAS_SINKS=sinks is not None,
        PRECISION=precision(query), **shape, **pdl_arguments(query),
    )  # fmt: skip
    if num_items > batch:
        _combine_parts[(batch, num_kv_heads)](
            partial_out, partial_lse, parts, out, NUM_HEADS=num_heads, GROUP=group,
            GROUP_TILE=triton.next_power_of_2(group), DIM=dim, DIM_TILE=padded_dim(dim),
            PARTS_TILE=PARTS_TILE, **pdl_arguments(query),
        )  # fmt: skip
