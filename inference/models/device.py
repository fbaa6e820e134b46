"""Where a model runs, in which dtype, with which attention: "auto" resolved on the machine at hand."""

from __future__ import annotations

import importlib.util
import time
from functools import lru_cache

import torch
import torch.nn.functional as F

from inference.config import EngineConfig
from inference.models.model_folder import CannotLoad
from inference.quantization import fp8

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
    attention = config.attention
    if attention == "auto":
        attention = "cpu" if device.type == "cpu" else "triton"
    if attention == "triton" and device.type == "cpu":
        raise CannotLoad("attention is set to triton, which needs an NVIDIA GPU")
    if attention == "flashinfer":
        _check_flashinfer(config, device)
    if attention == "cpu" and config.kv_dtype != "auto":
        raise CannotLoad(
            f"kv_dtype is set to {config.kv_dtype}, which on a CPU is read by attention=reference alone: "
            "leave it at auto"
        )
    return attention


def _check_flashinfer(config: EngineConfig, device: torch.device) -> None:
    if device.type == "cpu":
        raise CannotLoad("attention is set to flashinfer, which needs an NVIDIA GPU")
    if config.dtype == "float32" or config.kv_dtype != "auto":
        raise CannotLoad("attention is set to flashinfer, which here takes 16-bit dtypes and kv_dtype=auto")
    if importlib.util.find_spec("flashinfer") is None:
        raise CannotLoad(
            "attention is set to flashinfer, but the package is not installed: install flashinfer-python, "
            "or set attention to auto"
        )


def check_fp8(config: EngineConfig, device: torch.device, *, quantization: str | None) -> None:
    """Refuse fp8 where the GPU has none. `quantization`: what the folder says of its weights."""
    asked = [
        f"{name} is set to fp8"
        for name, value in (("quantization", config.quantization), ("kv_dtype", config.kv_dtype))
        if value == "fp8"
    ]
    if quantization == fp8.METHOD:
        asked.append("the weights are in fp8")
    if not asked or device.type != "cuda":
        return
    capability = torch.cuda.get_device_capability(device)
    if capability < fp8.LEAST_CAPABILITY:
        found, least = (".".join(map(str, numbers)) for numbers in (capability, fp8.LEAST_CAPABILITY))
        raise CannotLoad(
            f"{asked[0]}, which needs an NVIDIA GPU of compute capability {least} or later; this one has "
            f"{found}: choose int8 weights and kv_dtype auto, or device cpu"
        )


@lru_cache(maxsize=1)
def faster_dtype(*, repeats: int = 20) -> torch.dtype:
    """The dtype in which this CPU computes a linear layer of a small batch sooner.

    Asked of the CPU itself: without AVX512-BF16 or AMX, bfloat16 is 2 to 5 times slower than float32; with
    them it is up to 3 times faster, and the flags are spelt differently on every kind of CPU. On one thread
    and in turns, so that other work on the machine does not decide.
    """
    dtypes = (torch.float32, torch.bfloat16)
    operands = {
        dtype: tuple(torch.ones(rows, 576, dtype=dtype, device="cpu") for rows in (32, 1536))
        for dtype in dtypes
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
