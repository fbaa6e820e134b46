"""W8A8: the weights of int8, few rows as floats and many as int8, each with its own scale."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from inference.config import EngineConfig
from inference.kernels.rows import quantize_rows
from inference.models.loader import load_model
from inference.quantization.int8 import Int8Linear, dequantize, quantize
from inference.quantization.w8a8 import MOST_EXACT_ROWS, W8A8Linear
from tests.inference.quantization.wide import wide_folder


def layers(num_inputs: int = 96, num_outputs: int = 40) -> tuple[W8A8Linear, Int8Linear]:
    """The same weight in both methods."""
    exact = nn.Linear(num_inputs, num_outputs)
    made = []
    for kind in (W8A8Linear, Int8Linear):
        layer = kind.placeholder(exact, is_quantized=True, device=torch.device("cpu"))
        for name, tensor in kind.quantize(exact.weight.detach()).items():
            layer.get_parameter(name).data = tensor
        layer.bias = nn.Parameter(exact.bias.detach(), requires_grad=False)
        made.append(layer)
    both, weights = made
    assert isinstance(both, W8A8Linear)
    return both, weights


def test_few_rows_are_multiplied_as_by_int8() -> None:
    both, weights = layers()
    x = torch.randn(1, MOST_EXACT_ROWS, 96)
    assert both.activation_dtype(MOST_EXACT_ROWS) is None
    assert torch.equal(both(x), weights(x))


def test_many_rows_are_rounded_each_by_its_own_scale() -> None:
    both, weights = layers()
    x = torch.randn(MOST_EXACT_ROWS + 1, 96) * torch.logspace(-3, 3, MOST_EXACT_ROWS + 1)[:, None]
    assert both.activation_dtype(len(x)) == torch.int8
    rows = quantize_rows(x, torch.int8)
    expected = rows.exact() @ dequantize(both.weight, both.weight_scale).T + both.bias
    assert ((both(x) - expected).norm(dim=1) < 1e-5 * expected.norm(dim=1)).all()
    assert torch.equal(both(x), both(rows))  # as the norm before it hands them over
    off = (both(x) - weights(x)).norm(dim=1) / (weights(x) - both.bias).norm(dim=1)
    assert (off > 1e-4).all() and (off < 0.03).all()
    assert both(x[None]).shape == (1, len(x), 40)


def test_weights_are_those_of_int8_and_come_back_from_a_file(tmp_path: Path) -> None:
    folder = wide_folder(tmp_path / "exact")
    on_load = load_model(folder, EngineConfig(device="cpu", dtype="float32", quantization="w8a8"))
    assert on_load.quantization == "pilothouse_w8a8"
    exact = load_model(folder, EngineConfig(device="cpu", dtype="float32")).model
    found = {n: m for n, m in on_load.model.named_modules() if isinstance(m, W8A8Linear)}
    assert len(found) == 3 * 7
    for name, layer in found.items():
        weight, scale = quantize(exact.get_parameter(f"{name}.weight"))
        assert torch.equal(layer.weight, weight) and torch.equal(layer.weight_scale, scale)
    on_load.model.save_pretrained(tmp_path / "w8a8")
    on_load.tokenizer.save_pretrained(tmp_path / "w8a8")
    again = load_model(tmp_path / "w8a8", EngineConfig(device="cpu", dtype="float32")).model
    for name, tensor in on_load.model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


@pytest.mark.parametrize("num_rows", [3, 100])
def test_joined_layers_give_their_products_side_by_side(num_rows: int) -> None:
    parts = [layers(num_outputs=number)[0] for number in (40, 8)]
    x = torch.randn(num_rows, 96)
    before = torch.cat([part(x) for part in parts], dim=-1)
    joined = W8A8Linear.joined(parts)
    assert torch.allclose(joined(x), before, rtol=1e-6, atol=1e-6)
    assert joined.activation_dtype(num_rows) == parts[0].activation_dtype(num_rows)


def test_on_a_cpu_that_may_round_many_rows_keep_their_precision() -> None:
    both, weights = layers()
    x = torch.randn(MOST_EXACT_ROWS + 1, 96)
    exact = weights(x)
    for layer in (both, weights):
        layer.allow_rounding()
    assert both.activation_dtype(len(x)) is None
    found = both(x)
    assert torch.equal(found, weights(x))
    assert float((found - exact).norm() / exact.norm()) < 2e-3
