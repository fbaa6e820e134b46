"""Programmatic dependent launch (PDL): a kernel is launched while the one before it still ends (Hopper on).

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

PDL_WAIT_AND_TRIGGER = 2
PDL_WAIT = 1
PDL_OFF = 0


@triton.jit
def wait_for_predecessor(PDL: tl.constexpr):
    """To be called before anything is read or written."""
    if PDL > 0:
        gdc_wait()
    if PDL == 2:
        gdc_launch_dependents()


def pdl_arguments(rows: Tensor) -> dict[str, Any]:
    """Keyword arguments of a launch over these rows: the kernel's PDL, and the launch option."""
    if not supports_pdl(rows.device):
        return {"PDL": PDL_OFF}
    return {"PDL": PDL_WAIT_AND_TRIGGER if rows.shape[0] == 1 else PDL_WAIT, "launch_pdl": True}


@lru_cache(maxsize=8)
def supports_pdl(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)
