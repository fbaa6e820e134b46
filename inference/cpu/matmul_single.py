"""A product of float32 rows with one weight, for callers that have no step to make it a part of."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from inference.cpu import buffers, matmul
from inference.cpu.buffers import ALIGNMENT, address_of, aligned
from inference.cpu.matmul import EXACT, INT4_EXACT, INT4_ROUNDED, PACKED, PRODUCT, ROUNDED, SCRATCH_FLOATS
from inference.cpu.packing import BLOCK, group_of, num_blocks, pack
from inference.cpu.thread_pool import WorkerPool

NUM_PHASES = 2


def multiply(x: Tensor, weight: Tensor, scale: Tensor, *, rounds: bool = True) -> Tensor:
    """x [rows, in] times int8 [out, in] and float32 [out]: float32 [rows, out].

    `rounds`: x may be rounded to 15 bits.
    """
    weight, scale = weight.contiguous(), scale.contiguous()
    num_outputs, num_inputs = len(weight), x.shape[-1]
    return _multiply(
        x,
        weight=address_of(weight, "the weight", torch.int8, num_outputs, num_inputs),
        scale=address_of(scale, "the scales", torch.float32, num_outputs),
        num_outputs=num_outputs,
        kind=ROUNDED if rounds else EXACT,
    )


def multiply_bf16(x: Tensor, weight: Tensor, num_outputs: int) -> Tensor:
    """x [rows, in] times bfloat16 [ceil(num_outputs / 32), in, 32]: float32 [rows, num_outputs]."""
    weight = weight.contiguous()
    shape = num_blocks(num_outputs), x.shape[-1], BLOCK
    return _multiply(
        x,
        weight=address_of(weight, "the packed weight", torch.bfloat16, *shape),
        scale=0,
        num_outputs=num_outputs,
        kind=PACKED,
    )


def multiply_int4(x: Tensor, words: Tensor, scale: Tensor, num_outputs: int, *, rounds: bool) -> Tensor:
    """x [rows, in] times int32 words [blocks, in / 8, 32] with bfloat16 scales [blocks, groups, 32].

    float32 [rows, num_outputs]. `rounds`: x may be rounded to 15 bits.
    """
    words, scale = words.contiguous(), scale.contiguous()
    count, num_inputs = num_blocks(num_outputs), x.shape[-1]
    group = group_of(num_inputs, scale)
    return _multiply(
        x,
        weight=address_of(words, "the words of a weight", torch.int32, count, num_inputs // 8, BLOCK),
        scale=address_of(scale, "the scales", torch.bfloat16, count, num_inputs // group, BLOCK),
        num_outputs=num_outputs,
        kind=INT4_ROUNDED if rounds else INT4_EXACT,
        group=group,
    )


def _multiply(x: Tensor, *, weight: int, scale: int, num_outputs: int, kind: int, group: int = 0) -> Tensor:
    """`weight` and `scale` are addresses, of what the kind of product takes."""
    x = x.float().contiguous()
    num_rows, num_inputs = x.shape
    num_threads = torch.get_num_threads()
    record = np.zeros(1, dtype=PRODUCT)
    for name, value in {
        "weight": weight,
        "scale": scale,
        "num_outputs": num_outputs,
        "num_inputs": num_inputs,
        "group": group,
        "kind": kind,
    }.items():
        record[name] = value
    row_bytes, scale_bytes = aligned(4 * num_inputs), aligned(4 * num_rows)
    scratch_bytes = aligned(4 * SCRATCH_FLOATS)
    room_bytes = num_rows * row_bytes + scale_bytes + num_threads * scratch_bytes + ALIGNMENT
    room = buffers.new([room_bytes], torch.uint8)
    rows = aligned(room.data_ptr())
    scales = rows + num_rows * row_bytes
    out = buffers.new([num_rows, num_outputs], torch.float32)
    workers().run(
        matmul.run,
        record,
        address_of(x, "the rows", torch.float32, num_rows, num_inputs),
        num_rows,
        num_threads,
        rows,
        scales,
        address_of(out, "the product", torch.float32, num_rows, num_outputs),
        scales + scale_bytes,
        scratch_bytes,
        num_phases=NUM_PHASES,
        num_threads=num_threads,
    )
    return out


@lru_cache(maxsize=1)
def workers() -> WorkerPool:
    """The threads that all products share; each call waits for its own shares alone."""
    return WorkerPool()


def passes_self_test() -> bool:
    """A self-test on small products: nothing is clipped, no number lost."""
    weight = torch.arange(-127, 128, dtype=torch.int8, device="cpu").repeat(79)[: 64 * 77].view(64, 77)
    x = _spread(-1, 1, 9 * 77).view(9, 77)
    scale = _spread(1, 2, 64)
    return (
        _is_close(multiply(x, weight, scale), x @ weight.float().t() * scale)
        and _is_close(multiply_bf16(x, pack(weight.bfloat16()), 64), x @ weight.float().t())
        and _is_int4_right()
    )


def _is_int4_right() -> bool:
    numbers = torch.arange(64 * 3 * 16, dtype=torch.int64, device="cpu")
    stored = numbers.to(torch.uint8).view(64, 3, 16)  # groups of 32 inputs
    exact = torch.cat([stored & 15, stored >> 4], dim=-1).float() - 8
    scale = _spread(-1, 2, 64 * 3).view(64, 3).bfloat16()
    x = _spread(-1, 1, 11 * 96).view(11, 96)
    wanted = x @ (exact * scale.float().unsqueeze(-1)).flatten(1).t()
    words, scales = pack(stored.flatten(1).view(torch.int32)), pack(scale)
    return all(
        _is_close(multiply_int4(x, words, scales, 64, rounds=rounds), wanted) for rounds in (False, True)
    )


def _spread(first: float, last: float, count: int) -> Tensor:
    return torch.linspace(first, last, count, dtype=torch.float32, device="cpu")


def _is_close(found: Tensor, wanted: Tensor) -> bool:
    return bool(((found - wanted).abs() <= 1e-3 * wanted.abs().max()).all())
