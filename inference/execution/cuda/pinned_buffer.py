"""How numbers reach the device without the host waiting for it: through a pinned buffer, in one copy."""

from __future__ import annotations

import torch
from torch import Tensor

from inference.attention.base import IntArray

ALIGNMENT = 4  # numbers: Triton compiles a kernel anew for addresses that are no multiple of 16 bytes


class Stage:
    """A pinned buffer of so many numbers, and its twin on the device."""

    def __init__(self, *, size: int, device: torch.device) -> None:
        self._host = torch.empty(size, dtype=torch.int32, device="cpu", pin_memory=device.type == "cuda")
        self._array = self._host.numpy()
        self._device = torch.empty(size, dtype=torch.int32, device=device)
        self._copied = torch.cuda.Event() if device.type == "cuda" else None

    def send(self, *parts: IntArray) -> list[Tensor]:
        """The parts, each as a device tensor of its own shape, good until the next are sent."""
        if self._copied is not None:
            self._copied.synchronize()  # the copy before may still read the buffer
        end, places = 0, list[int]()
        for part in parts:
            places.append(end)
            self._array[end : end + part.size] = part.ravel()
            end += -(-part.size // ALIGNMENT) * ALIGNMENT
        self._device[:end].copy_(self._host[:end], non_blocking=True)
        if self._copied is not None:
            self._copied.record()
        return [
            self._device[place : place + part.size].view(part.shape)
            for place, part in zip(places, parts, strict=True)
        ]
