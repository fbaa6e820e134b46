"""Kernels that are launched while the one before them still ends, where the GPU can (Hopper and later).

Each awaits the results of its predecessor before anything else, so only the pause between two launches is
saved. In steps of one token, whose kernels are the shortest, each also lets its successor be launched as soon
as it has begun itself; in larger ones that successor's programs would take room from those that work.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

ONE_TOKEN = 2
SOME_TOKENS = 1
NOT_EARLY = 0


@triton.jit
def await_predecessor(EARLY: tl.constexpr):
    """To be called before anything is read or written."""
    if EARLY > 0:
        gdc_wait()
    if EARLY == 2:
        gdc_launch_dependents()


def early(rows: Tensor) -> dict[str, Any]:
    """What a launch over these rows is given: the kernel's argument EARLY, and the option beside it."""
    if not can_launch_early(rows.device):
        return {"EARLY": NOT_EARLY}
    return {"EARLY": ONE_TOKEN if rows.shape[0] == 1 else SOME_TOKENS, "launch_pdl": True}


@lru_cache(maxsize=8)
def can_launch_early(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
