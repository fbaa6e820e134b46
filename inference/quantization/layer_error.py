"""Relative errors of quantized weights, layer by layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from inference.quantization.linear import QuantizedLinear, Stored

NUM_DIRECTIONS = 32  # of a sketch; an estimate from it is within a few percent of the exact figure
ROWS_AT_ONCE = 8192


@dataclass(frozen=True, slots=True)
class LayerError:
    """The relative error of one quantized layer: norm of the difference over norm of the exact weight."""

    name: str
    weight_error: float


@torch.no_grad()
def weight_errors(exact: nn.Module, quantized: nn.Module) -> list[LayerError]:
    """The error of each quantized layer; `exact` is the same model with float weights."""
    return [
        LayerError(name, _relative(layer.exact_weight(), exact.get_parameter(f"{name}.weight")))
        for name, layer in _quantized_layers(quantized)
    ]


@torch.no_grad()
def sketch(model: nn.Module) -> dict[str, Tensor]:
    """Random projections of each layer's weights, by the layer's name.

    Enough to tell how far another model's weights are from these without holding both at once.
    """
    return {name: _project(weight).cpu() for name, weight in _weights(model)}


def sketched_errors(exact: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[LayerError]:
    """`weight_errors` estimated from two sketches, the worst first; common layers only."""
    errors = [
        LayerError(name, _relative(other[name], seen))
        for name, seen in exact.items()
        if name in other and other[name].shape == seen.shape
    ]
    return sorted(errors, key=lambda layer: -layer.weight_error)


def _weights(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Layer names and float weights. Biases and norms count as layers of their own."""
    for name, module in model.named_modules():
        if isinstance(module, Stored):
            yield name, module.exact_weight()
            bias = getattr(module, "bias", None)
            if bias is not None:
                yield f"{name}.bias", bias
            continue
        for own, parameter in module.named_parameters(recurse=False):
            yield name if own == "weight" else f"{name}.{own}", parameter


def _project(weight: Tensor) -> Tensor:
    """Rows times random directions, `[num_rows, NUM_DIRECTIONS]`; a vector is kept as it is."""
    if weight.dim() < 2:
        return weight.float()
    rows = weight.reshape(-1, weight.shape[-1])
    generator = torch.Generator("cpu").manual_seed(rows.shape[-1])
    directions = torch.randn(
        rows.shape[-1], NUM_DIRECTIONS, generator=generator, dtype=torch.float32, device="cpu"
    ).to(rows.device)
    pieces = [piece.float() @ directions for piece in torch.split(rows, ROWS_AT_ONCE)]
    return torch.cat(pieces)


def _quantized_layers(model: nn.Module) -> list[tuple[str, QuantizedLinear]]:
    return [(name, module) for name, module in model.named_modules() if isinstance(module, QuantizedLinear)]


def _relative(approximate: Tensor, exact: Tensor) -> float:
    exact = exact.float()
    return float((approximate.float() - exact).norm() / exact.norm().clamp_min(1e-30))
