"""Triton kernels of a decoder layer around its matrix products: norm, rotary and KV write, gate."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from inference.kernels.launch import pdl_arguments, wait_for_predecessor
from inference.kernels.rows import LARGEST, QuantizedRows


@triton.jit
def _store_quantized(value, row, scales, places, mask, LIMIT: tl.constexpr):
    """A row in 8 bits, its largest value as the largest that there is, and the row's scale."""
    scale = tl.maximum(tl.max(tl.abs(value), 0) / LIMIT, 1e-12)
    value = value / scale
    if places.dtype.element_ty == tl.int8:
        value = tl.floor(value + 0.5)
    tl.store(places, value.to(places.dtype.element_ty), mask=mask)
    tl.store(scales + row, scale)


@triton.jit
def _add_norm(
    x, residual, weight, out, scales, epsilon, WIDTH: tl.constexpr, TILE: tl.constexpr, ADDS: tl.constexpr,
    LIMIT: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    wait_for_predecessor(PDL)
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, TILE)
    mask = column < WIDTH
    value = tl.load(x + row * WIDTH + column, mask=mask, other=0.0).to(tl.float32)
    if ADDS:
        value += tl.load(residual + row * WIDTH + column, mask=mask, other=0.0).to(tl.float32)
        rounded = value.to(residual.dtype.element_ty)
        tl.store(residual + row * WIDTH + column, rounded, mask=mask)
        value = rounded.to(tl.float32)
    value = value * tl.rsqrt(tl.sum(value * value, 0) / WIDTH + epsilon)
    rounded = value.to(x.dtype.element_ty)
    scaled = (rounded * tl.load(weight + column, mask=mask, other=0.0)).to(x.dtype.element_ty)
    if LIMIT > 0:
        _store_quantized(scaled.to(tl.float32), row, scales, out + row * WIDTH + column, mask, LIMIT)
    else:
        tl.store(out + row * WIDTH + column, scaled, mask=mask)


def add_norm(x: Tensor, residual: Tensor, weight: Tensor, epsilon: float, *, adds: bool) -> Tensor:
    """RMS norm of `residual + x` [tokens, width], which becomes the residual; of `x` unless `adds`."""
    out = torch.empty_like(x)
    width = x.shape[1]
    _add_norm[(x.shape[0],)](
        x, residual, weight, out, out, epsilon, WIDTH=width, TILE=triton.next_power_of_2(width), ADDS=adds,
        LIMIT=0.0, num_warps=8 if width > 1024 else 4, **pdl_arguments(x),
    )  # fmt: skip
    return out


def add_norm_quantized(
    x: Tensor, residual: Tensor, weight: Tensor, epsilon: float, *, adds: bool, dtype: torch.dtype
) -> QuantizedRows:
    """As `add_norm`, its rows in 8 bits."""
    width = x.shape[1]
    out = _empty_rows(x, width, dtype)
    _add_norm[(x.shape[0],)](
        x, residual, weight, out.values, out.scale, epsilon, WIDTH=width, ADDS=adds,
        TILE=triton.next_power_of_2(width), LIMIT=LARGEST[dtype], num_warps=8 if width > 1024 else 4,
        **pdl_arguments(x),
    )  # fmt: skip
    return out


def _empty_rows(x: Tensor, width: int, dtype: torch.dtype) -> QuantizedRows:
    return QuantizedRows(
        torch.empty(x.shape[0], width, dtype=dtype, device=x.device),
        torch.empty(x.shape[0], 1, dtype=torch.float32, device=x.device),
        x.dtype,
    )


@triton.jit
def _quantize(
    x, out, scales, stride, WIDTH: tl.constexpr, TILE: tl.constexpr, LIMIT: tl.constexpr, PDL: tl.constexpr
):
    wait_for_predecessor(PDL)
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, TILE)
    mask = column < WIDTH
    value = tl.load(x + row * stride + column, mask=mask, other=0.0).to(tl.float32)
    _store_quantized(value, row, scales, out + row * WIDTH + column, mask, LIMIT)


def quantize(x: Tensor, dtype: torch.dtype) -> QuantizedRows:
    """The rows of `x` [tokens, width], contiguous within a row, in 8 bits."""
    num_rows, width = x.shape
    out = _empty_rows(x, width, dtype)
    _quantize[(num_rows,)](
        x, out.values, out.scale, x.stride(0), WIDTH=width, TILE=triton.next_power_of_2(width),
        LIMIT=LARGEST[dtype], num_warps=_warps_of_a_row(width), **pdl_arguments(x),
    )  # fmt: skip
    return out


def _warps_of_a_row(width: int) -> int:
    """So many that a thread holds 32 values at most, and a short row wakes few."""
    return max(1, min(32, triton.next_power_of_2(width) // 512))


@triton.jit
def _store_limited(places, value, mask, LIMIT: tl.constexpr):
    """`value` in the dtype of a pool; in 8 bits (LIMIT > 0) what is too large becomes the largest."""
    value = value.to(tl.float32)
    if LIMIT > 0:
        value = tl.clamp(value, -LIMIT, LIMIT, propagate_nan=tl.PropagateNan.ALL)
    tl.store(places, value.to(places.dtype.element_ty), mask=mask)


def _limit(pool: Tensor) -> float:
    return LARGEST.get(pool.dtype, 0.0)


@triton.jit
def _rotate_and_write(
    states, q_norm, k_norm, cos, sin, query, keys, values, slots, epsilon, state_stride,
    NUM_HEADS: tl.constexpr, NUM_KV_HEADS: tl.constexpr, DIM: tl.constexpr, HALF: tl.constexpr,
    HALF_TILE: tl.constexpr, HAS_NORM: tl.constexpr, LIMIT: tl.constexpr, PDL: tl.constexpr,
):  # fmt: skip
    """One head of one token: a query head goes to `query`, a key head with its value head into the pool."""
    wait_for_predecessor(PDL)
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    half = tl.arange(0, HALF_TILE)
    mask = half < HALF
    source = states + token * state_stride + head * DIM
    low = tl.load(source + half, mask=mask, other=0.0).to(tl.float32)
    high = tl.load(source + HALF + half, mask=mask, other=0.0).to(tl.float32)
    if HAS_NORM:
        norm = q_norm if head < NUM_HEADS else k_norm
        factor = tl.rsqrt((tl.sum(low * low, 0) + tl.sum(high * high, 0)) / DIM + epsilon)
        low_weight = tl.load(norm + half, mask=mask, other=0.0).to(tl.float32)
        high_weight = tl.load(norm + HALF + half, mask=mask, other=0.0).to(tl.float32)
        low = (low * factor).to(query.dtype.element_ty).to(tl.float32) * low_weight
        high = (high * factor).to(query.dtype.element_ty).to(tl.float32) * high_weight
    c = tl.load(cos + token * DIM + half, mask=mask, other=0.0).to(tl.float32)
    s = tl.load(sin + token * DIM + half, mask=mask, other=0.0).to(tl.float32)
    turned_low, turned_high = low * c - high * s, high * c + low * s
    if head < NUM_HEADS:
        target = query + (token * NUM_HEADS + head) * DIM
        tl.store(target + half, turned_low.to(query.dtype.element_ty), mask=mask)
        tl.store(target + HALF + half, turned_high.to(query.dtype.element_ty), mask=mask)
    else:
        slot = tl.load(slots + token).to(tl.int64)
        place = (slot * NUM_KV_HEADS + head - NUM_HEADS) * DIM
        _store_limited(keys + place + half, turned_low, mask, LIMIT)
        _store_limited(keys + place + HALF + half, turned_high, mask, LIMIT)
        value = source + NUM_KV_HEADS * DIM
        low_value = tl.load(value + half, mask=mask, other=0.0)
        high_value = tl.load(value + HALF + half, mask=mask, other=0.0)
        _store_limited(values + place + half, low_value, mask, LIMIT)
        _store_limited(values + place + HALF + half, high_value, mask, LIMIT)


def rotate_and_write(
    states: Tensor,  # [tokens, (num_heads + 2 * num_kv_heads) * head_dim]: queries, keys, values
    cos: Tensor,  # [tokens, head_dim]
    sin: Tensor,
    *,
    keys: Tensor,  # the layer's pool
    values: Tensor,
    slots: Tensor,  # [tokens], rows of the pool
    num_heads: int,
    norms: tuple[Tensor, Tensor, float] | None = None,  # weights of the query and key norms, epsilon
) -> Tensor:
    """Rotary embedding of queries and keys; keys and values go into the pool. Returns the queries."""
    num_kv_heads, dim = keys.shape[1], keys.shape[2]
    tokens = states.shape[0]
    query = torch.empty(tokens, num_heads, dim, device=states.device, dtype=states.dtype)
    q_norm, k_norm, epsilon = norms if norms else (states, states, 0.0)
    _rotate_and_write[(tokens, num_heads + num_kv_heads)](
        states, q_norm, k_norm, cos, sin, query, keys, values, slots, epsilon, states.stride(0),
        NUM_HEADS=num_heads, NUM_KV_HEADS=num_kv_heads, DIM=dim, HALF=dim // 2,
        HALF_TILE=triton.next_power_of_2(dim // 2), HAS_NORM=norms is not None,
        LIMIT=_limit(keys), num_warps=1, **pdl_arguments(states),
    )  # fmt: skip
    return query


@triton.jit
def _write(key, value, keys, values, slots, key_stride, value_stride, key_head, value_head,
           NUM_KV_HEADS: tl.constexpr, DIM: tl.constexpr, TILE: tl.constexpr,
           LIMIT: tl.constexpr):  # fmt: skip
    token, head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    dim = tl.arange(0, TILE)
    mask = dim < DIM
    target = (tl.load(slots + token).to(tl.int64) * NUM_KV_HEADS + head) * DIM
    k = tl.load(key + token * key_stride + head * key_head + dim, mask=mask)
    v = tl.load(value + token * value_stride + head * value_head + dim, mask=mask)
    _store_limited(keys + target + dim, k, mask, LIMIT)
    _store_limited(values + target + dim, v, mask, LIMIT)


def write_kv(key: Tensor, value: Tensor, *, keys: Tensor, values: Tensor, slots: Tensor) -> None:
    """Put keys and values, `[tokens, num_kv_heads, head_dim]` with dims contiguous, into the pool."""
    num_kv_heads, dim = keys.shape[1], keys.shape[2]
    _write[(key.shape[0], num_kv_heads)](
        key, value, keys, values, slots, key.stride(0), value.stride(0), key.stride(1), value.stride(1),
        NUM_KV_HEADS=num_kv_heads, DIM=dim, TILE=triton.next_power_of_2(dim),
        LIMIT=_limit(keys), num_warps=1,
    )  # fmt: skip


@triton.jit
def _silu_mul(x, out, WIDTH, TILE: tl.constexpr, PDL: tl.constexpr):
    wait_for_predecessor(PDL)
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * TILE + tl.arange(0, TILE)
    mask = column < WIDTH
    gate = tl.load(x + row * 2 * WIDTH + column, mask=mask).to(tl.float32)
    up = tl.load(x + row * 2 * WIDTH + WIDTH + column, mask=mask).to(tl.float32)
    activated = (gate * tl.sigmoid(gate)).to(out.dtype.element_ty).to(tl.float32)
    tl.store(out + row * WIDTH + column, (activated * up).to(out.dtype.element_ty), mask=mask)


def silu_mul(x: Tensor) -> Tensor:
    """`silu(gate) * up` of `[tokens, 2 * width]`, gates first."""
    tokens, width = x.shape[0], x.shape[1] // 2
    out = torch.empty(tokens, width, device=x.device, dtype=x.dtype)
    tile = min(1024, triton.next_power_of_2(width))
    _silu_mul[(tokens, triton.cdiv(width, tile))](x, out, width, TILE=tile, **pdl_arguments(x))
    return out


@triton.jit
def _silu_mul_quantized(
    x, out, scales, WIDTH: tl.constexpr, TILE: tl.constexpr, LIMIT: tl.constexpr, PDL: tl.constexpr
):
    wait_for_predecessor(PDL)
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, TILE)
    mask = column < WIDTH
    gate = tl.load(x + row * 2 * WIDTH + column, mask=mask, other=0.0).to(tl.float32)
    up = tl.load(x + row * 2 * WIDTH + WIDTH + column, mask=mask, other=0.0).to(tl.float32)
    activated = (gate * tl.sigmoid(gate)).to(x.dtype.element_ty).to(tl.float32)
    product = (activated * up).to(x.dtype.element_ty).to(tl.float32)
    _store_quantized(product, row, scales, out + row * WIDTH + column, mask, LIMIT)


def silu_mul_quantized(x: Tensor, dtype: torch.dtype) -> QuantizedRows:
    """As `silu_mul`, its rows in 8 bits."""
    num_rows, width = x.shape[0], x.shape[1] // 2
    out = _empty_rows(x, width, dtype)
    _silu_mul_quantized[(num_rows,)](
        x, out.values, out.scale, WIDTH=width, TILE=triton.next_power_of_2(width), LIMIT=LARGEST[dtype],
        num_warps=_warps_of_a_row(width), **pdl_arguments(x),
    )  # fmt: skip
    return out


@triton.jit(do_not_specialize=["num_tokens"])
def _fill_pending(token_ids, rows, last_tokens, num_tokens, TILE: tl.constexpr):
    index = tl.program_id(0) * TILE + tl.arange(0, TILE)
    mask = index < num_tokens
    token_id = tl.load(token_ids + index, mask=mask)
    last = tl.load(last_tokens + tl.load(rows + index, mask=mask, other=0), mask=mask)
    tl.store(token_ids + index, tl.where(token_id < 0, last, token_id), mask=mask)


def fill_pending(token_ids: Tensor, rows: Tensor, last_tokens: Tensor) -> None:
    """Put each sequence's last token, `last_tokens[rows]`, where its token id [num_tokens] is negative."""
    num_tokens = token_ids.shape[0]
    _fill_pending[(triton.cdiv(num_tokens, 256),)](token_ids, rows, last_tokens, num_tokens, TILE=256)
