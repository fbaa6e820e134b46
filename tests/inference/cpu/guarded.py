"""Memory that ends, or begins, where no page is: one byte too far is a crash, not a wrong number."""

from __future__ import annotations

import ctypes
import mmap

import torch
from torch import Tensor

PROT_NONE = 0

_kept: list[mmap.mmap] = []
_libc = ctypes.CDLL(None, use_errno=True)


def guarded(tensor: Tensor) -> Tensor:
    """A copy of a tensor that ends right before a page that nobody may touch."""
    size = tensor.nbytes
    pages = -(-size // mmap.PAGESIZE)
    memory = mmap.mmap(-1, (pages + 1) * mmap.PAGESIZE)
    _kept.append(memory)
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    end = start + pages * mmap.PAGESIZE
    assert _libc.mprotect(ctypes.c_void_p(end), mmap.PAGESIZE, PROT_NONE) == 0
    copy = torch.frombuffer(memory, dtype=torch.uint8, count=size, offset=pages * mmap.PAGESIZE - size)
    copy = copy.view(tensor.dtype).view(tensor.shape)
    return copy.copy_(tensor)
