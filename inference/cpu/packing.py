"""The memory layout of weights for bf16.py and int4.py: blocks of 32 outputs, in a block input by input.

An input is a bfloat16 number, a word of eight int4 ones, or the scale of a group.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from inference.cpu.buffers import WrongBuffer

BLOCK = 32  # outputs
SMALLEST_GROUP = 32  # inputs that share a scale of int4 weights


def pack(weight: Tensor, *, into: Tensor | None = None) -> Tensor:
    """A bfloat16 or int32 matrix [out, in] as [ceil(out / 32), in, 32], the last block filled up with zeros.

    numpy transposes small matrices three times as fast as torch, and releases the GIL.
    """
    num_outputs, num_inputs = weight.shape
    missing = -num_outputs % BLOCK
    filled = F.pad(weight, (0, 0, 0, missing)) if missing else weight  # which would copy it all the same
    packed = empty_packed(len(filled), num_inputs, weight.dtype) if into is None else into
    np.copyto(_bits(packed), _bits(filled).reshape(-1, BLOCK, num_inputs).transpose(0, 2, 1))
    return packed


def empty_packed(num_outputs: int, num_inputs: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """An empty packed weight [num_outputs / 32, num_inputs, 32]."""
    return torch.empty((num_outputs // BLOCK, num_inputs, BLOCK), dtype=dtype, device="cpu")


def _bits(weight: Tensor) -> npt.NDArray[np.signedinteger]:
    """The same memory for numpy, which has no bfloat16."""
    return (weight.view(torch.int16) if weight.dtype == torch.bfloat16 else weight).numpy()


def unpack(packed: Tensor, num_outputs: int) -> Tensor:
    """The weight [out, in] again."""
    return packed.transpose(1, 2).reshape(-1, packed.shape[1])[:num_outputs]


def outputs(packed: Tensor, numbers: Tensor) -> Tensor:
    """Rows `numbers` (int64 [...]) of the unpacked weight: [..., in]."""
    return packed[numbers // BLOCK, :, numbers % BLOCK]


def num_blocks(num_outputs: int) -> int:
    """Blocks of a packed weight of `num_outputs` rows."""
    return -(-num_outputs // BLOCK)


def group_of(num_inputs: int, scale: Tensor) -> int:
    """Inputs per scale of `scale` [blocks, groups, 32]. Raises `WrongBuffer` where groups are uneven."""
    num_groups = scale.shape[1] if scale.dim() == 3 else 0
    group = num_inputs // max(1, num_groups)
    if not num_groups or group % SMALLEST_GROUP or group * num_groups != num_inputs:
        raise WrongBuffer(
            f"{num_inputs} inputs do not fall into equal groups of a multiple of {SMALLEST_GROUP} for scales "
            f"{[*scale.shape]}"
        )
    return group
