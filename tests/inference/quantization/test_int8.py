"""INT8 weights: exact to half a step, the same on load and on reload, right in every dtype."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from inference.quantization import int8_matmul
from inference.quantization.int8 import Int8Linear, dequantize, quantize
from inference.quantization.registry import quantization_config
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
        placeholder = Int8Linear.placeholder(
            nn.Linear(4, 4), is_quantized=pre_quantized, device=torch.device("meta")
        )
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
