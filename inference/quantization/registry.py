"""Quantization methods by name. Importing this module registers them with transformers."""

from __future__ import annotations

from transformers import PreTrainedModel
from transformers.quantizers import AutoHfQuantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from inference.quantization.fp8 import Fp8Config
from inference.quantization.int4 import Int4Config
from inference.quantization.int8 import Int8Config
from inference.quantization.w8a8 import W8A8Config

METHODS: dict[str, type[QuantizationConfigMixin]] = {
    "int8": Int8Config,
    "int4": Int4Config,
    "fp8": Fp8Config,
    "w8a8": W8A8Config,
}


def quantization_config(name: str, *, quantize_head: bool = False) -> QuantizationConfigMixin:
    """The configuration to pass to `from_pretrained` for quantizing while loading."""
    if name not in METHODS:
        raise ValueError(f"quantization {name!r} is not one of {', '.join(sorted(METHODS))}")
    return METHODS[name](quantize_head=quantize_head)


def quantize_loaded(model: PreTrainedModel, name: str, *, quantize_head: bool = False) -> None:
    """Quantize a loaded float model in place, as `from_pretrained` would while loading it."""
    config = quantization_config(name, quantize_head=quantize_head)
    AutoHfQuantizer.from_config(config, pre_quantized=False).quantize_loaded(model)
