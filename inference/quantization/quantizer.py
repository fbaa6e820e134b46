"""The transformers quantizer that all methods share: which layers, when, how saved."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

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

from inference.quantization.experts import refuse_experts
from inference.quantization.linear import QuantizedLinear, frozen

META = torch.device("meta")  # without memory

QuantizeWeight = Callable[[str, Tensor], dict[str, Tensor]]  # a layer's name and weight -> its parameters


class LinearConfig(QuantizationConfigMixin):
    """The quantization_config of config.json: the method, the modules left out, and whether the head is one.

    `modules_to_not_convert`: None stands for the output head and what shares its weights. `quantize_head`: it
    is quantized all the same, into weights of its own where it shared those of the embeddings, which stay.
    """

    METHOD: ClassVar[str]

    def __init__(
        self, modules_to_not_convert: list[str] | None = None, quantize_head: bool = False, **kwargs: Any
    ) -> None:
        self.quant_method = self.METHOD
        self.modules_to_not_convert = modules_to_not_convert
        self.quantize_head = quantize_head


class Quantize(ConversionOps):
    """The conversion of a float weight into its layer's tensors while transformers loads it."""

    def __init__(self, quantize_weight: QuantizeWeight) -> None:
        self._quantize_weight = quantize_weight

    def convert(self, input_dict: dict[str, Any], **kwargs: Any) -> dict[str, Tensor]:
        converted = {}
        for name, value in input_dict.items():
            exact = value[0] if isinstance(value, list) else value
            module = name.removesuffix(".weight")
            for parameter, tensor in self._quantize_weight(module, exact).items():
                converted[f"{module}.{parameter}"] = tensor
        return converted


class LinearQuantizer(HfQuantizer):
    """Replaces linear layers by quantized ones, and tells transformers which tensors to quantize on load."""

    LINEAR: ClassVar[type[QuantizedLinear]]
    requires_calibration = False

    def _process_model_before_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> None:
        for name, linear in self._linears(model):
            if name != shared_head(model):  # whose weights are not in the file
                layer = self.LINEAR.placeholder(linear, is_quantized=self.pre_quantized, device=META)
                model.set_submodule(name, layer)

    def _process_model_after_weight_loading(self, model: PreTrainedModel, **kwargs: Any) -> PreTrainedModel:
        head = shared_head(model)
        if self.quantization_config.quantize_head and head:
            self._quantize_in_place(model, head)
        return model

    def quantize_loaded(self, model: PreTrainedModel) -> None:
        """Quantize a loaded float model in place, layer by layer: at most one is in memory twice."""
        for name, _ in self._linears(model):
            self._quantize_in_place(model, name)
        model.config.quantization_config = self.quantization_config

    @torch.no_grad()
    def _quantize_in_place(self, model: PreTrainedModel, name: str) -> None:
        linear = model.get_submodule(name)
        is_shared = name == shared_head(model)
        layer = self.LINEAR.placeholder(linear, is_quantized=True, device=META)
        for parameter, tensor in self.quantize_weight(name, linear.weight).items():
            setattr(layer, parameter, frozen(tensor))
        layer.bias = linear.bias
        model.set_submodule(name, layer.train(linear.training))
        if is_shared:
            model.config.get_text_config().tie_word_embeddings = False
            model.config.tie_word_embeddings = False
            model.all_tied_weights_keys = {}

    def _linears(self, model: PreTrainedModel) -> Iterator[tuple[str, nn.Linear]]:
        """The layers to quantize. Holds one at a time, so that a replaced layer frees its memory."""
        refuse_experts(model)
        kept = self.get_modules_to_not_convert(
            model, self.quantization_config.modules_to_not_convert, model._keep_in_fp32_modules
        )
        if self.quantization_config.quantize_head:
            kept = [name for name in kept if name != head_of(model)]
        for name in [name for name, _ in model.named_modules()]:
            module = model.get_submodule(name)
            if type(module) is nn.Linear and should_convert_module(name, kept):
                yield name, module

    def param_needs_quantization(self, model: PreTrainedModel, param_name: str, **kwargs: Any) -> bool:
        module, tensor_name = get_module_from_name(model, param_name)
        return isinstance(module, QuantizedLinear) and tensor_name == "weight"

    def quantize_weight(self, name: str, weight: Tensor) -> dict[str, Tensor]:
        """The parameters of the layer `name` [out, in], without its bias."""
        return self.LINEAR.quantize(weight)

    def get_quantize_ops(self) -> Quantize:
        return Quantize(self.quantize_weight)

    def get_new_dtype(self, converter: Any, param: Any, dtype: torch.dtype | None) -> torch.dtype | None:
        """5.23 asks which dtype to load as: the target's own is right, whether quantized or float32."""
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


def register_method(method: str, linear: type[QuantizedLinear]) -> type[LinearConfig]:
    """Register a method with transformers whose layers are `linear`: its class of configurations."""
    name = linear.__name__.removesuffix("Linear")
    config = type(f"{name}Config", (LinearConfig,), {"METHOD": method, "__doc__": linear.__doc__})
    quantizer = type(f"{name}Quantizer", (LinearQuantizer,), {"LINEAR": linear})
    register_quantization_config(method)(config)
    register_quantizer(method)(quantizer)
    return config


def head_of(model: PreTrainedModel) -> str | None:
    """The name of the output head, or None."""
    head = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if head is not None and module is head), None)


def shared_head(model: PreTrainedModel) -> str | None:
    """The name of the output head where it shares the embeddings' weights; else None."""
    head = head_of(model)
    tied = model.all_tied_weights_keys
    return head if head and f"{head}.weight" in (*tied.keys(), *tied.values()) else None
