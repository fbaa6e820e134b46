"""Bytes of a known pattern before and behind each buffer that compiled code writes: none may change."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from inference.cpu import buffers

NUM_BYTES = 1 << 16  # on either side: what is off by a factor of two stays within them
PATTERN = 0xA5


class Guards:
    """Makes buffers between guards, and knows whether these are whole."""

    def __init__(self) -> None:
        self._made: list[tuple[Tensor, int]] = []

    @property
    def num_buffers(self) -> int:
        return len(self._made)

    def new(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """As `inference.cpu.buffers.new`."""
        size = math.prod(shape) * dtype.itemsize
        memory = torch.full((NUM_BYTES + size + NUM_BYTES,), PATTERN, dtype=torch.uint8, device="cpu")
        self._made.append((memory, size))
        return memory[NUM_BYTES : NUM_BYTES + size].view(dtype).view(*shape)

    def around(self, tensor: Tensor) -> Tensor:
        """A copy of a tensor between guards."""
        return self.new(tensor.shape, tensor.dtype).copy_(tensor)

    def check(self) -> None:
        """Raises AssertionError where a guard was written over."""
        for memory, size in self._made:
            before, behind = memory[:NUM_BYTES], memory[NUM_BYTES + size :]
            for guard, place in ((before, "before"), (behind, "behind")):
                hurt = int((guard != PATTERN).sum())
                assert not hurt, f"{hurt} bytes {place} a buffer of {size} were written"


@contextmanager
def guards_around_buffers() -> Iterator[Guards]:
    """Every buffer that is made inside lies between guards, which are looked at in the end."""
    guards = Guards()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(buffers, "new", guards.new)
        yield guards
    guards.check()
