"""Where a model runs, in which dtype, with which attention: "auto" resolved on the machine at hand."""

from __future__ import annotations

import time

import torch
import torch.nn.functional as F

from inference.config import EngineConfig
from inference.models.files import CannotLoad

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(config: EngineConfig) -> torch.device:
    """CUDA where there is one, unless the CPU is asked for."""
    has_cuda = torch.cuda.is_available()
    if config.device == "cuda" and not has_cuda:
        raise CannotLoad("device is set to cuda, but torch sees no NVIDIA GPU")
    return torch.device("cuda" if has_cuda and config.device != "cpu" else "cpu")


def choose_dtype(config: EngineConfig, device: torch.device) -> torch.dtype:
    """bfloat16 on GPUs; on CPUs whatever this one multiplies faster."""
    if config.dtype != "auto":
        return DTYPES[config.dtype]
    if device.type == "cuda" or linear_seconds(torch.bfloat16) < linear_seconds(torch.float32):
        return torch.bfloat16
    return torch.float32


def choose_attention(config: EngineConfig, device: torch.device) -> str:
    """The attention implementation for a device."""
    if config.attention == "auto":
        return "cpu" if device.type == "cpu" else "reference"
    return config.attention


def linear_seconds(dtype: torch.dtype, *, repeats: int = 5) -> float:
    """Best time of a decode-sized linear layer on the CPU: few rows, weights that do not fit the L1 cache.

    Asked of the CPU itself: without AVX512-BF16 or AMX, bfloat16 is 2 to 5 times slower than float32; with
    them it is up to 3 times faster, and the flags are spelt differently on every kind of CPU.
    """
    weight = torch.ones(2048, 512, dtype=dtype)
    rows = torch.ones(8, 512, dtype=dtype)
    best = float("inf")
    for _ in range(repeats):
        started = time.perf_counter()
        F.linear(rows, weight)
        best = min(best, time.perf_counter() - started)
    return best
