"""What quantization costs, layer by layer: of the weights, and of the outputs on given tokens."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from inference.quantization.int8 import Int8Linear, dequantize


@dataclass(frozen=True, slots=True)
class LayerError:
    """Relative errors (norm of the difference over norm of the exact value) of one quantized layer."""

    name: str
    weight_error: float
    output_error: float | None = None  # None where no tokens were given


@torch.no_grad()
def weight_errors(exact: nn.Module, quantized: nn.Module) -> list[LayerError]:
    """One figure per quantized layer; `exact` is the same model with its float weights."""
    return [
        LayerError(
            name,
            _relative(dequantize(layer.weight, layer.weight_scale), exact.get_parameter(f"{name}.weight")),
        )
        for name, layer in _quantized_layers(quantized)
    ]


@torch.no_grad()
def output_errors(exact: nn.Module, quantized: nn.Module, token_ids: Tensor) -> list[LayerError]:
    """Runs `exact` on token_ids [batch, tokens]; gives each quantized layer the inputs of its exact twin."""
    layers = dict(_quantized_layers(quantized))
    found: dict[str, float] = {}

    def compare(name: str) -> RemovableHandle:
        def hook(_: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            found[name] = _relative(layers[name](inputs[0]), output)

        return exact.get_submodule(name).register_forward_hook(hook)

    hooks = [compare(name) for name in layers]
    try:
        exact(token_ids)
    finally:
        for hook in hooks:
            hook.remove()
    return [
        LayerError(layer.name, layer.weight_error, found.get(layer.name))
        for layer in weight_errors(exact, quantized)
    ]


def _quantized_layers(model: nn.Module) -> list[tuple[str, Int8Linear]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, Int8Linear)]


def _relative(approximate: Tensor, exact: Tensor) -> float:
    exact = exact.float()
    return float((approximate.float() - exact).norm() / exact.norm().clamp_min(1e-30))
