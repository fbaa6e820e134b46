"""Where a model runs, in which dtype, with which attention: "auto" resolved on the machine at hand."""

from __future__ import annotations

import time
from functools import lru_cache

import torch
import torch.nn.functional as F

from inference.config import EngineConfig
from inference.models.model_folder import CannotLoad

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
    return torch.bfloat16 if device.type == "cuda" else faster_dtype()


def choose_attention(config: EngineConfig, device: torch.device) -> str:
    """The attention implementation for a device."""
    if config.attention == "auto":
        return "cpu" if device.type == "cpu" else "triton"
    if config.attention == "triton" and device.type == "cpu":
        raise CannotLoad("attention is set to triton, which needs an NVIDIA GPU")
    return config.attention


@lru_cache(maxsize=1)
def faster_dtype(*, repeats: int = 20) -> torch.dtype:
    """The dtype in which this CPU computes a linear layer of a small batch sooner.

    Asked of the CPU itself: without AVX512-BF16 or AMX, bfloat16 is 2 to 5 times slower than float32; with
    them it is up to 3 times faster, and the flags are spelt differently on every kind of CPU. On one thread
    and in turns, so that other work on the machine does not decide.
    """
    dtypes = (torch.float32, torch.bfloat16)
    operands = {
        dtype: (torch.ones(32, 576, dtype=dtype), torch.ones(1536, 576, dtype=dtype)) for dtype in dtypes
    }
    best = dict.fromkeys(dtypes, float("inf"))
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for _ in range(repeats):
            for dtype, (rows, weight) in operands.items():
                started = time.perf_counter()
                F.linear(rows, weight)
                best[dtype] = min(best[dtype], time.perf_counter() - started)
    finally:
        torch.set_num_threads(num_threads)
    return min(dtypes, key=lambda dtype: best[dtype])
