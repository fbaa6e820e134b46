"""INT8 weights: exact to half a step, the same on load and on reload, right in every dtype."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from inference.quantization import int8_matmul
from inference.quantization.base import quantization_config
from inference.quantization.int8 import (
    Int8Linear,
    allow_rounding,
    dequantize,
    quantize,
)
from tests.inference.tiny import tiny_model

TEXT = (
    "The history of bread goes back to the first farmers, who ground wild grain between stones and baked flat"
    " cakes on hot ashes. In Egypt, bakers learned that dough left in the warm air would rise, and from that"
    " time the oven became the heart of the village. Water boils at one hundred degrees Celsius at sea level,"
    " but at a lower temperature on a mountain, because the air pressure is lower."
)
TOKEN_IDS = torch.arange(48)[None]  # [1, tokens]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    logging.disable_progress_bar()


@pytest.fixture(params=["llama", "qwen2"])  # without biases, and with
def exact_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    tiny_model(request.param).save_pretrained(tmp_path / "exact")
    return tmp_path / "exact"


def load(folder: Path, *, dtype: torch.dtype = torch.float32, on_load: bool = False) -> Any:
    options = {"quantization_config": quantization_config("int8")} if on_load else {}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options).eval()


@torch.no_grad()
def logits(model: Any, token_ids: Tensor = TOKEN_IDS) -> Tensor:
    found: Tensor = model(token_ids).logits
    return found.float()


def quantized_layers(model: nn.Module) -> dict[str, Int8Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Int8Linear)}


def test_a_weight_is_off_by_half_a_step_at_most() -> None:
    weight = (
        torch.randn(64, 96, generator=torch.Generator().manual_seed(1)) * torch.logspace(-6, 3, 64)[:, None]
    )
    quantized, scale = quantize(weight)
    assert quantized.dtype == torch.int8 and scale.shape == (64, 1)
    assert ((dequantize(quantized, scale) - weight).abs() <= scale * 0.5001).all()
    assert (quantized.abs().amax(dim=-1) == 127).all()  # every channel uses the whole range
    assert quantized.min() >= -127


def test_a_channel_of_zeros_stays_zero() -> None:
    quantized, scale = quantize(torch.zeros(2, 8))
    assert not quantized.any() and torch.isfinite(scale).all()


def test_linear_layers_become_int8_and_the_head_stays(exact_folder: Path) -> None:
    model = load(exact_folder, on_load=True)
    assert len(quantized_layers(model)) == 3 * 7
    assert type(model.lm_head) is nn.Linear
    assert all(layer.weight.dtype == torch.int8 for layer in quantized_layers(model).values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantizing_on_load_gives_the_quantized_weights_of_the_file(
    exact_folder: Path, dtype: torch.dtype
) -> None:
    """transformers up to 5.17 gave all zeros, without an error, to a placeholder that is int8 at once."""
    exact = load(exact_folder, dtype=dtype)
    for name, layer in quantized_layers(load(exact_folder, dtype=dtype, on_load=True)).items():
        weight, scale = quantize(exact.get_parameter(f"{name}.weight"))
        assert layer.weight.any()
        assert torch.equal(layer.weight, weight) and torch.equal(layer.weight_scale, scale)


def test_the_placeholder_is_float_while_quantizing_and_int8_for_a_quantized_file() -> None:
    for pre_quantized, dtype in ((False, torch.float32), (True, torch.int8)):
        with torch.device("meta"):
            placeholder = Int8Linear.placeholder(nn.Linear(4, 4), is_quantized=pre_quantized)
        assert placeholder.weight.dtype == dtype and placeholder.weight.is_meta


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_model_comes_back_bit_by_bit(exact_folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    model = load(exact_folder, dtype=dtype, on_load=True)
    model.save_pretrained(tmp_path / "int8")
    again = load(tmp_path / "int8", dtype=dtype)  # without a word about quantization
    for layer in quantized_layers(model).values():
        layer.matmul = int8_matmul.dequantized
    for layer in quantized_layers(again).values():
        layer.matmul = int8_matmul.dequantized
    assert len(quantized_layers(again)) == 3 * 7
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(logits(model), logits(again))


def test_scales_stay_float32_when_a_quantized_folder_is_loaded_as_bfloat16(
    exact_folder: Path, tmp_path: Path
) -> None:
    load(exact_folder, on_load=True).save_pretrained(tmp_path / "int8")
    model = load(tmp_path / "int8", dtype=torch.bfloat16)
    layer = next(iter(quantized_layers(model).values()))
    assert (layer.weight.dtype, layer.weight_scale.dtype) == (torch.int8, torch.float32)
    assert model.model.norm.weight.dtype == torch.bfloat16


@pytest.mark.parametrize("way", [int8_matmul.dequantized, int8_matmul.widened, int8_matmul.packed])
@pytest.mark.parametrize("num_rows", [1, 3, 40])
def test_every_way_to_multiply_gives_the_product(way: int8_matmul.Matmul, num_rows: int) -> None:
    generator = torch.Generator().manual_seed(num_rows)
    weight, scale = quantize(torch.randn(96, 64, generator=generator))
    x = torch.randn(1, num_rows, 64, generator=generator).to(torch.bfloat16)
    exact = x.double() @ dequantize(weight, scale).double().T
    product = way(x, weight, scale)
    assert product.dtype == torch.bfloat16 and product.shape == (1, num_rows, 96)
    assert float((product.double() - exact).norm() / exact.norm()) < 0.005  # bfloat16 has 8 bits


def test_float32_activations_are_multiplied_exactly_whatever_was_measured() -> None:
    weight, scale = quantize(torch.randn(32, 64, generator=torch.Generator().manual_seed(5)))
    x = torch.randn(2, 64, generator=torch.Generator().manual_seed(6))
    exact = x.double() @ dequantize(weight, scale).double().T
    torch.testing.assert_close(int8_matmul.fastest(x, weight, scale).double(), exact, rtol=1e-5, atol=1e-5)


def test_the_way_follows_the_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def way(value: int) -> Callable[..., Tensor]:
        return lambda x, weight, scale: torch.tensor(value)

    ways = tuple(way(rows) for rows in int8_matmul.MEASURED_ROWS)
    monkeypatch.setattr(int8_matmul, "measured_ways", lambda *shape: ways)
    weight, scale = quantize(torch.ones(8, 8))
    chosen = [
        int(int8_matmul.fastest(torch.ones(rows, 8, dtype=torch.bfloat16), weight, scale))
        for rows in (1, 2, 4, 5, 64, 500)
    ]
    assert chosen == [1, 4, 4, 16, 64, 64]


def test_the_measurement_names_a_way_for_every_number_of_rows() -> None:
    ways = int8_matmul.measured_ways(64, 64, torch.get_num_threads(), torch.bfloat16)
    assert len(ways) == len(int8_matmul.MEASURED_ROWS)
    assert set(ways) <= {int8_matmul.packed, int8_matmul.dequantized, int8_matmul.widened}


@torch.no_grad()
def test_rounding_float32_activations_is_for_those_who_allow_it(
    exact_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ways = (int8_matmul.packed,) * len(int8_matmul.MEASURED_ROWS)
    monkeypatch.setattr(int8_matmul, "measured_ways", lambda *shape: ways)
    model = load(exact_folder, on_load=True)
    layer = model.model.layers[0].mlp.up_proj
    x = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(7))
    exact = layer(x)
    allow_rounding(model)
    rounded = layer(x)
    assert rounded.dtype == torch.float32 and not torch.equal(exact, rounded)
    assert float((exact - rounded).norm() / exact.norm()) < 0.005


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ValueError, match="int3"):
        quantization_config("int3")


@pytest.mark.model
@pytest.mark.parametrize(("dtype", "agreement"), [(torch.float32, 0.95), (torch.bfloat16, 0.9)])
def test_the_default_model_keeps_its_judgement(
    default_model: Path, dtype: torch.dtype, agreement: float
) -> None:
    token_ids = AutoTokenizer.from_pretrained(default_model)(TEXT, return_tensors="pt").input_ids
    exact, model = load(default_model, dtype=dtype), load(default_model, dtype=dtype, on_load=True)
    before, after = logits(exact, token_ids), logits(model, token_ids)
    perplexities = [
        float(torch.nn.functional.cross_entropy(found[0, :-1], token_ids[0, 1:]).exp())
        for found in (before, after)
    ]
    assert len(quantized_layers(model)) == 210
    assert abs(perplexities[1] / perplexities[0] - 1) < 0.02
    assert float((before.argmax(-1) == after.argmax(-1)).float().mean()) > agreement
    assert float((before - after).norm() / before.norm()) < 0.05
