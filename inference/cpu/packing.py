"""How bfloat16 weights lie in memory for `packed`: in blocks of outputs, and in a block input by input."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

BLOCK = 32  # outputs


def pack(weight: Tensor) -> Tensor:
    """A weight [out, in] as [ceil(out / 32), in, 32], the last block filled up with zeros."""
    num_outputs, num_inputs = weight.shape
    missing = -num_outputs % BLOCK
    filled = F.pad(weight, (0, 0, 0, missing)) if missing else weight  # which would copy it all the same
    return filled.view(-1, BLOCK, num_inputs).transpose(1, 2).contiguous()


def unpack(packed: Tensor, num_outputs: int) -> Tensor:
    """The weight [out, in] again."""
    return packed.transpose(1, 2).reshape(-1, packed.shape[1])[:num_outputs]


def outputs(packed: Tensor, numbers: Tensor) -> Tensor:
    """Some rows of the weight, [..., in]; numbers: int64 [...]."""
    return packed[numbers // BLOCK, :, numbers % BLOCK]
