"""Memory that compiled code knows by its address alone: looked at before it is handed over, or made here.

Compiled code writes as many numbers of a type as it was told; what a tensor really holds is checked here.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

ALIGNMENT = 64  # bytes


class WrongBuffer(ValueError):
    """A tensor is not what compiled code would take it for."""


def address_of(tensor: Tensor, name: str, dtype: torch.dtype, *shape: int) -> int:
    """The address of a contiguous CPU tensor of this dtype and shape. Raises `WrongBuffer` for any other."""
    if tensor.dtype != dtype or tensor.shape != shape or not tensor.is_contiguous() or not tensor.is_cpu:
        raise WrongBuffer(
            f"compiled code takes {name} as {dtype} {[*shape]}, contiguous and on the CPU; this is "
            f"{tensor.dtype} {[*tensor.shape]} with strides {[*tensor.stride()]} on {tensor.device}"
        )
    return tensor.data_ptr()


def check_below(numbers: npt.NDArray[np.int64], limit: int, name: str) -> None:
    """Raises `WrongBuffer` unless all numbers are from 0 to `limit` - 1."""
    if len(numbers) and numbers.view(np.uint64).max() >= limit:  # in which negative ones are large
        raise WrongBuffer(f"there are {limit} of them, and compiled code is told of {name} {numbers.max()}")


def new(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """All memory that compiled code writes is made here; what is in it is left over from others."""
    return torch.empty(tuple(shape), dtype=dtype, device="cpu")


def aligned(size: int) -> int:
    """The next multiple of ALIGNMENT: of an address, or of a number of bytes."""
    return -(-size // ALIGNMENT) * ALIGNMENT
