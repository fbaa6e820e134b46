"""INT8 symmetric weight-only quantization, one scale per output channel, as a method of transformers."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.core_model_loading import ConversionOps
from transformers.quantizers import (
    HfQuantizer,
    get_module_from_name,
    register_quantization_config,
    register_quantizer,
)
from transformers.quantizers.quantizers_utils import should_convert_module
from transformers.utils.quantization_config import QuantizationConfigMixin

from inference.quantization.int8_matmul import Matmul, fastest, fastest_rounded

METHOD = "pilothouse_int8"
LARGEST = 127  # symmetric: -128 is not used
SMALLEST_SCALE = 1e-12  # of a channel that is all zeros


def quantize(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight [out, in] -> int8 [out, in] and float32 scale [out, 1], so that weight is about int8 * scale."""
    exact = weight.float()
    scale = (exact.abs().amax(dim=-1, keepdim=True) / LARGEST).clamp_min(SMALLEST_SCALE)
    return torch.round(exact / scale).clamp_(-LARGEST, LARGEST).to(torch.int8), scale


def dequantize(weight: Tensor, scale: Tensor) -> Tensor:
    """The float32 weight that a pair stands for."""
    return weight.float() * scale


class Int8Linear(nn.Module):
    """A linear layer whose weight is int8. Set `matmul` to choose how it multiplies."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        bias: bool,
        dtype: torch.dtype,
        weight_dtype: torch.dtype,
    ) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.matmul: Matmul = fastest
        self.weight = _frozen(out_features, in_features, dtype=weight_dtype)
        self.weight_scale = _frozen(out_features, 1, dtype=torch.float32)
        self.bias = _frozen(out_features, dtype=dtype) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        product = self.matmul(x, self.weight, self.weight_scale)
        return product if self.bias is None else product + self.bias


def allow_rounding(model: nn.Module) -> None:
    """Let float32 activations be rounded to bfloat16 where that is faster: about a tenth on top of the error.

    For those who left the dtype to us; a float32 that was asked for stays exact.
    """
    for module in model.modules():
        if isinstance(module, Int8Linear):
            module.matmul = fastest_rounded


def _frozen(*shape: int, dtype: torch.dtype) -> nn.Parameter:
    return nn.Parameter(torch.empty(*shape, dtype=dtype), requires_grad=False)


@register_quantization_config(METHOD)
class Int8Config(QuantizationConfigMixin):
    """What config.json keeps: the method, and the modules that stay as they are (None: the output head)."""

    def __init__(self, modules_to_not_convert: list[str] | None = None, **kwargs: Any) -> None:
        self.quant_method = METHOD
        self.modules_to_not_convert = modules_to_not_convert


class Int8Quantize(ConversionOps):
    """A float weight on its way from the file into the model becomes an int8 weight and its scale."""

    def convert(self, input_dict: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        converted = {}
        for name, value in input_dict.items():
            weight, scale = quantize(value[0] if isinstance(value, list) else value)
            converted[name] = weight
            converted[f"{name}_scale"] = scale
        return converted


@register_quantizer(METHOD)
class Int8Quantizer(HfQuantizer):
    """Puts `Int8Linear` where linear layers were; says which tensors are quantized while loading."""

    requires_calibration = False

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        kept = self.get_modules_to_not_convert(
            model, self.quantization_config.modules_to_not_convert, model._keep_in_fp32_modules
        )
        for name, module in list(model.named_modules()):
            if type(module) is nn.Linear and should_convert_module(name, kept):
                model.set_submodule(name, self._placeholder(module))

    def _placeholder(self, linear: nn.Linear) -> Int8Linear:
        """What the file's tensors are loaded into.

        While quantizing on load its weight stays float: up to transformers 5.17 a tensor is cast to its
        placeholder's dtype BEFORE the quantize operation sees it, and int8 would turn it to zeros.
        """
        dtype = linear.weight.dtype
        with torch.device("meta"):
            return Int8Linear(
                linear.in_features,
                linear.out_features,
                bias=linear.bias is not None,
                dtype=dtype,
                weight_dtype=torch.int8 if self.pre_quantized else dtype,
            )

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:
        module, tensor_name = get_module_from_name(model, param_name)
        return isinstance(module, Int8Linear) and tensor_name == "weight"

    def get_quantize_ops(self) -> Int8Quantize:
        return Int8Quantize()

    def get_new_dtype(self, converter: Any, param: Any, dtype: torch.dtype | None) -> torch.dtype | None:
        """5.23 asks which dtype to load as: the target's own is right, whether int8 or float32."""
        return dtype

    def param_element_size(self, model: PreTrainedModel, param_name: str, param: Tensor) -> float:
        return 1 if self.param_needs_quantization(model, param_name) else param.element_size()

    def is_serializable(self, *args: Any, **kwargs: Any) -> bool:
        return True

    @property
    def is_trainable(self) -> bool:
        return False

    @property
    def is_compileable(self) -> bool:
        return True
