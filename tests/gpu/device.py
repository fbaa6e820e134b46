"""Where these tests run: on the NVIDIA GPU, or, where there is none, on the CPU as a dry run.

A dry run executes what needs no kernel of ours, with small sizes, so that a call which no longer exists or an
expectation which no longer holds is seen by `make test`, long before a GPU sees it.
"""

from __future__ import annotations

from typing import TypeVar

import pytest
import torch

T = TypeVar("T")

IS_DRY_RUN = not torch.cuda.is_available()
DEVICE = "cpu" if IS_DRY_RUN else "cuda"
needs_gpu = pytest.mark.skipif(IS_DRY_RUN, reason="needs an NVIDIA GPU")


def sized(full: T, *, dry: T) -> T:
    """`full` on a GPU; in a dry run, `dry`."""
    return dry if IS_DRY_RUN else full
