"""What decode and prefill attention share: the scores of a tile of keys, and what both are called with."""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor, float32

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
    return "ieee" if query.dtype == float32 else "tf32"
