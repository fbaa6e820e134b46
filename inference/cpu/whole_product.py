"""A product of float32 rows with an int8 weight, for callers that have no step to make it a part of."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from inference.cpu import products
from inference.cpu.products import ALIGNMENT, PRODUCT
from inference.cpu.teamwork import Crew

OWN_BYTES = 2 * ALIGNMENT  # of a thread: the sums of a tile
NUM_PHASES = 2


def multiply(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """x [rows, in] times int8 [out, in] and float32 [out]: float32 [rows, out]. x is rounded to 15 bits."""
    x, weight, scale = x.float().contiguous(), weight.contiguous(), scale.contiguous()
    num_rows, num_inputs = x.shape
    num_threads = torch.get_num_threads()
    record = np.zeros(1, dtype=PRODUCT)
    record[0] = (weight.data_ptr(), scale.data_ptr(), 0, len(weight), num_inputs, 1)
    row_bytes, scale_bytes = _aligned(2 * num_inputs), _aligned(4 * num_rows)
    room = torch.empty(
        num_rows * row_bytes + scale_bytes + num_threads * OWN_BYTES + ALIGNMENT, dtype=torch.uint8
    )
    rows = _aligned(room.data_ptr())
    scales = rows + num_rows * row_bytes
    out = torch.empty(num_rows, len(weight))
    crew().run(
        products.run, record, x.data_ptr(), num_rows, num_threads, rows, scales, out.data_ptr(),
        scales + scale_bytes, OWN_BYTES, num_phases=NUM_PHASES, num_threads=num_threads,
    )  # fmt: skip
    return out


@lru_cache(maxsize=1)
def crew() -> Crew:
    """Whoever multiplies shares it: each call waits for its own shares alone."""
    return Crew()


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def is_right() -> bool:
    """Whether a small product is what it should be: nothing is clipped, no number lost."""
    weight = torch.arange(-127, 128, dtype=torch.int8).repeat(70)[: 13 * 77].view(13, 77)
    x = torch.linspace(-1, 1, 5 * 77).view(5, 77)
    scale = torch.linspace(1, 2, 13)
    expected = x @ weight.float().t() * scale
    return bool(((multiply(x, weight, scale) - expected).abs() <= 1e-3 * expected.abs().max()).all())
