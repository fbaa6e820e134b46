"""Resolves "auto" on the machine at hand: the device, dtype and attention of a model."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass

import torch

from inference.checkpoints.model_folder import CannotLoad
from inference.config import EngineConfig
from inference.quantization import fp8

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def choose_device(config: EngineConfig) -> torch.device:
    """CUDA where there is one, unless the CPU is asked for."""
    has_cuda = torch.cuda.is_available()
    if config.device == "cuda" and not has_cuda:
        raise CannotLoad("device is set to cuda, but torch sees no NVIDIA GPU")
    return torch.device("cuda" if has_cuda and config.device != "cpu" else "cpu")


@dataclass(frozen=True, slots=True)
class ChosenDtype:
    """The dtype chosen for "auto", and the reason, for people."""

    dtype: torch.dtype
    why: str


def choose_dtype(config: EngineConfig, device: torch.device) -> torch.dtype:
    """bfloat16 on GPUs; on CPUs float32, unless steps were measured (execution/dtype_choice.py)."""
    if config.dtype != "auto":
        return DTYPES[config.dtype]
    return torch.bfloat16 if device.type == "cuda" else torch.float32


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
