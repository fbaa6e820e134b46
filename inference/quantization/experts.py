"""Mixtures of experts are not quantized: their weights are no linear layers, and most of a model."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd

from inference.quantization.errors import CannotQuantize


def refuse_experts(model: nn.Module) -> None:
    """Raises `CannotQuantize` for a model with the weights of several layers in one tensor."""
    for name, module in model.named_modules():
        for own, parameter in module.named_parameters(recurse=False):
            is_stack = parameter.dim() == 3 and parameter.shape[0] > 1
            if is_stack and not isinstance(module, _ConvNd):
                raise CannotQuantize(
                    f"{name}.{own} holds many experts in one tensor, which is not quantized, and most of the "
                    "model would stay as it is: serve a mixture of experts with quantization off"
                )
