"""Shared by decode and prefill attention: the scores of a tile of keys, and common constants."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

NO_WINDOW = 2**30
SMALLEST_DOT = 16  # tl.dot multiplies tiles of at least this many rows and columns


@triton.jit
def scaled_scores(q, k, scale, cap, HAS_CAP: tl.constexpr, PRECISION: tl.constexpr):
    """Base-2 scores of a tile."""
    scores = tl.dot(q, k, input_precision=PRECISION) * scale
    if HAS_CAP:
        scores = cap * (2.0 * tl.sigmoid(2.0 * scores / cap) - 1.0)  # cap * tanh(score / cap)
    return scores * 1.4426950408889634


def padded_dim(dim: int) -> int:
    """The head size as tiles have it."""
    return max(SMALLEST_DOT, triton.next_power_of_2(dim))


def precision(query: Tensor) -> str:
    """float32 is multiplied as such: it is what tests compare with `generate`."""
    return "ieee" if query.dtype == torch.float32 else "tf32"


@lru_cache(maxsize=8)
def shared_memory(device: torch.device) -> int:
    """Bytes that one program may hold on the multiprocessor: 227 KiB on Hopper, 163 on A100, 99 on Ada."""
    if device.type != "cuda":
        return 2**30
    own = torch.cuda.get_device_properties(device)
    return int(own.shared_memory_per_block_optin)  # type: ignore[attr-defined]


def first_that_fits(shapes: tuple[dict[str, Any], ...], query: Tensor, *, num_rows: int) -> dict[str, Any]:
    """The first of these shapes whose tiles of keys, values and queries the multiprocessor can hold."""
    row_bytes = padded_dim(query.shape[-1]) * query.element_size()
    for shape in shapes:
        if row_bytes * (num_rows + 2 * shape["TILE"] * shape["num_stages"]) <= shared_memory(query.device):
            return shape
    return shapes[-1]
