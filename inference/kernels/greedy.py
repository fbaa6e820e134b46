"""Triton kernels that find each row's likeliest token and leave it where the next step looks for it."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PART = 4096  # logits that one program looks through


@triton.jit
def _best_of_part(logits, bests, places, row_stride, vocab_size, NUM_PARTS: tl.constexpr, PART: tl.constexpr):
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    index = part * PART + tl.arange(0, PART)
    mask = index < vocab_size
    values = tl.load(logits + row * row_stride + index, mask=mask, other=float("-inf")).to(tl.float32)
    values = tl.where(values != values, float("inf"), values)  # a NaN shows as what no row may have
    best, place = tl.max(values, 0, return_indices=True)
    tl.store(bests + row * NUM_PARTS + part, best)
    tl.store(places + row * NUM_PARTS + part, part * PART + place)


@triton.jit
def _best_of_row(
    bests, places, rows, last_tokens, tokens, NUM_PARTS: tl.constexpr, PARTS_TILE: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    part = tl.arange(0, PARTS_TILE)
    mask = part < NUM_PARTS
    values = tl.load(bests + row * NUM_PARTS + part, mask=mask, other=float("-inf"))
    best, winner = tl.max(values, 0, return_indices=True)
    token = tl.load(places + row * NUM_PARTS + winner)
    is_usable = (best > float("-inf")) & (best < float("inf"))
    tl.store(last_tokens + tl.load(rows + row), token)
    tl.store(tokens + row, tl.where(is_usable, token, -1))


def choose_greedily(logits: Tensor, rows: Tensor, last_tokens: Tensor) -> Tensor:
    """The first of the largest of each row of logits [num_rows, vocab]: `[num_rows]`, -1 where not finite.

    Also written to `last_tokens[rows]`.
    """
    num_rows, vocab_size = logits.shape
    num_parts = triton.cdiv(vocab_size, PART)
    bests = torch.empty(num_rows, num_parts, dtype=torch.float32, device=logits.device)
    places = torch.empty(num_rows, num_parts, dtype=torch.int32, device=logits.device)
    tokens = torch.empty(num_rows, dtype=torch.int32, device=logits.device)
    _best_of_part[(num_rows, num_parts)](
        logits, bests, places, logits.stride(0), vocab_size, NUM_PARTS=num_parts, PART=PART
    )
    _best_of_row[(num_rows,)](
        bests, places, rows, last_tokens, tokens, NUM_PARTS=num_parts,
        PARTS_TILE=triton.next_power_of_2(num_parts), num_warps=1,
    )  # fmt: skip
    return tokens
