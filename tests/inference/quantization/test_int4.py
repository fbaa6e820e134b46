"""INT4 weights: near what they were, packed as told, the same on load and reload, joined without copies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from inference import corpus
from inference.checkpoints.model_folder import CannotLoad, check_folder
from inference.config import EngineConfig
from inference.convert.facts import facts
from inference.convert.importance import importance
from inference.convert.quantize import quantize_folder
from inference.models.loader import load_model
from inference.quantization.int4 import (
    GROUP,
    Int4Config,
    Int4Linear,
    dequantize,
    group_of,
    pack,
    quantize,
    unpack,
)
from inference.quantization.registry import quantization_config
from tests.inference.quantization.wide import wide_folder, wide_model

TOKEN_IDS = torch.arange(48)[None]  # [1, tokens]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)
    logging.disable_progress_bar()


@pytest.fixture(params=["llama", "qwen2"])  # without biases, and with
def exact_folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return wide_folder(tmp_path / "exact", request.param)


def load(folder: Path, *, dtype: torch.dtype = torch.float32, on_load: bool = False) -> Any:
    options = {"quantization_config": quantization_config("int4")} if on_load else {}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options).eval()


@torch.no_grad()
def logits(model: Any, token_ids: Tensor = TOKEN_IDS) -> Tensor:
    found: Tensor = model(token_ids).logits
    return found.float()


def quantized_layers(model: nn.Module) -> dict[str, Int4Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Int4Linear)}


def random(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact.double()).norm() / exact.double().norm())


def test_packing_puts_a_groups_first_half_into_the_low_bits() -> None:
    numbers = (torch.arange(2 * 3 * 32) % 16 - 8).float().view(2, 3, 32)
    packed = pack(numbers)
    assert packed.dtype == torch.uint8 and packed.shape == (2, 3, 16)
    assert torch.equal((packed & 15).float() - 8, numbers[..., :16])
    assert torch.equal((packed >> 4).float() - 8, numbers[..., 16:])
    assert torch.equal(unpack(packed.flatten(1), 3), numbers)


def test_numbers_that_fit_come_back_exactly() -> None:
    numbers = torch.randint(-8, 8, (16, 2, GROUP), generator=torch.Generator().manual_seed(2)).float()
    numbers[:, :, 5] = -8  # the whole range is used
    weight = (numbers * torch.tensor([0.5, 2.0])[:, None]).view(16, 2 * GROUP)
    packed, scale = quantize(weight)
    assert (packed.shape, scale.shape) == ((16, GROUP), (2, 16))
    assert torch.equal(dequantize(packed, scale), weight)


def test_the_search_beats_scales_that_span_the_groups() -> None:
    weight = random(64, 4 * GROUP) * torch.logspace(-4, 2, 64)[:, None]
    groups = weight.view(64, 4, GROUP)
    spanning = groups.abs().amax(-1, keepdim=True) / 7
    plain = (torch.round(groups / spanning).clamp(-8, 7) * spanning).view_as(weight)
    found = dequantize(*quantize(weight))
    errors = [((one - weight).norm(dim=1) / weight.norm(dim=1)).mean() for one in (found, plain)]
    assert 0.05 < errors[0] < 0.11 and errors[0] < 0.85 * errors[1]


def test_a_group_of_zeros_stays_zero_and_an_outlier_spoils_its_own_group_alone() -> None:
    weight = random(2, 3 * GROUP)
    weight[0, :GROUP] = 0
    weight[1, GROUP] = 1000.0
    found = dequantize(*quantize(weight))
    assert not found[0, :GROUP].any() and torch.isfinite(found).all()
    assert relative(found[1, 2 * GROUP :], weight[1, 2 * GROUP :]) < 0.12
    assert abs(found[1, GROUP] / 1000 - 1) < 0.01


def test_the_size_of_a_weight_does_not_change_how_it_is_quantized(monkeypatch: pytest.MonkeyPatch) -> None:
    weight = random(24, 2 * GROUP)
    whole = quantize(weight)
    monkeypatch.setattr("inference.quantization.int4.NUMBERS_AT_ONCE", 5 * 2 * GROUP)
    assert all(torch.equal(one, other) for one, other in zip(whole, quantize(weight), strict=True))


@pytest.mark.parametrize(("num_inputs", "group"), [(4096, 128), (576, 64), (96, 32), (32, 32)])
def test_a_group_is_as_large_as_the_inputs_allow(num_inputs: int, group: int) -> None:
    assert group_of(num_inputs) == group


def test_inputs_that_make_no_groups_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="linear layer has 40"):
        group_of(40)
    with pytest.raises(ValueError, match="group_size of int4 is 128 here, not 64"):
        Int4Config(group_size=64)
    folder = wide_folder(tmp_path, hidden_size=40)
    with pytest.raises(CannotLoad, match="has 40 of them: choose quantization int8"):
        load_model(folder, EngineConfig(device="cpu", quantization="int4"))


def test_linear_layers_become_int4_and_the_head_stays(exact_folder: Path) -> None:
    model = load(exact_folder, on_load=True)
    layers = quantized_layers(model)
    assert len(layers) == 3 * 7 and type(model.lm_head) is nn.Linear
    for layer in layers.values():
        assert layer.weight.dtype == torch.uint8
        assert layer.weight.shape == (layer.out_features, layer.in_features // 2)
        assert layer.weight_scale.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantizing_on_load_gives_the_quantized_weights_of_the_file(
    exact_folder: Path, dtype: torch.dtype
) -> None:
    exact = load(exact_folder, dtype=dtype)
    for name, layer in quantized_layers(load(exact_folder, dtype=dtype, on_load=True)).items():
        packed, scale = quantize(exact.get_parameter(f"{name}.weight"))
        assert torch.equal(layer.weight, packed) and torch.equal(layer.weight_scale, scale)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_model_comes_back_bit_by_bit(exact_folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    model = load(exact_folder, dtype=dtype, on_load=True)
    model.save_pretrained(tmp_path / "int4")
    again = load(tmp_path / "int4", dtype=dtype)  # without a word about quantization
    assert len(quantized_layers(again)) == 3 * 7
    assert again.config.quantization_config.group_size == GROUP
    assert again.state_dict().keys() == model.state_dict().keys()
    for name, tensor in model.state_dict().items():
        assert tensor.dtype == again.state_dict()[name].dtype, name
        assert torch.equal(tensor, again.state_dict()[name]), name
    assert torch.equal(logits(model), logits(again))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_that_of_the_dequantized_weight(dtype: torch.dtype) -> None:
    linear = nn.Linear(256, 96, dtype=dtype)
    layer = Int4Linear.placeholder(linear, is_quantized=True, device=torch.device("cpu"))
    for name, tensor in Int4Linear.quantize(linear.weight.detach()).items():
        layer.get_parameter(name).data = tensor
    layer.bias = linear.bias
    x = random(1, 5, 256, seed=3).to(dtype)
    with torch.no_grad():
        product = layer(x)
    assert product.dtype == dtype and product.shape == (1, 5, 96)
    exact = x.double() @ layer.exact_weight().double().T + linear.bias.detach().double()
    assert relative(product, exact) < (1e-6 if dtype == torch.float32 else 0.005)


@torch.no_grad()
def test_joined_layers_give_their_products_side_by_side_and_become_views() -> None:
    layers = []
    for seed, num_outputs in ((1, 64), (2, 32), (3, 32)):
        layer = Int4Linear(
            256, num_outputs, bias=True, dtype=torch.float32, is_quantized=True, device=torch.device("cpu")
        )
        for name, tensor in Int4Linear.quantize(random(num_outputs, 256, seed=seed)).items():
            layer.get_parameter(name).data = tensor
        layer.bias.data = random(num_outputs, seed=seed + 10)
        layers.append(layer)
    x = random(3, 256, seed=9)
    before = torch.cat([layer(x) for layer in layers], dim=-1)
    joined = Int4Linear.joined(layers)
    assert torch.equal(joined(x), before)
    assert torch.equal(torch.cat([layer(x) for layer in layers], dim=-1), before)
    again = Int4Linear.joined(layers)
    for name in Int4Linear.PARAMETERS:
        whole = joined.get_parameter(name)
        storages = [one.get_parameter(name).untyped_storage().data_ptr() for one in (*layers, again)]
        assert storages == [whole.untyped_storage().data_ptr()] * 4, name
        assert torch.equal(again.get_parameter(name), whole)


def test_errors_go_where_they_count_least() -> None:
    weight, counts = random(64, 4 * GROUP), torch.logspace(-3, 3, GROUP).repeat(4)
    errors = {}
    for name, weights in (("plain", None), ("weighed", counts)):
        difference = dequantize(*quantize(weight, weights)) - weight
        errors[name] = [float((difference.square() * how).sum()) for how in (torch.ones(1), counts)]
    assert errors["weighed"][1] < 0.9 * errors["plain"][1]
    assert errors["weighed"][0] > errors["plain"][0]


@torch.no_grad()
def test_a_folder_is_quantized_by_the_importance_of_its_inputs(tmp_path: Path) -> None:
    """Which is not kept: config.json holds what a reader needs."""
    source, folder = wide_folder(tmp_path / "exact"), tmp_path / "int4"
    folder.mkdir()
    receipt = quantize_folder(source, folder, name="int4", quantize_head=True)
    assert (receipt["method"], receipt["num_layers"]) == ("int4", 3 * 7 + 1)
    assert 0.05 < receipt["mean_weight_error"] < 0.15
    kept = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert kept == {
        "quant_method": "pilothouse_int4",
        "group_size": GROUP,
        "quantize_head": True,
        "modules_to_not_convert": None,
    }
    exact, model = load(source), load(folder)
    found = importance(exact)
    assert set(found) == set(quantized_layers(model))
    for name, layer in quantized_layers(model).items():
        packed, scale = quantize(exact.get_parameter(f"{name}.weight"), found[name])
        assert torch.equal(layer.weight, packed) and torch.equal(layer.weight_scale, scale)


def test_a_folder_tells_how_many_parameters_it_had(tmp_path: Path) -> None:
    source, folder = wide_folder(tmp_path / "exact"), tmp_path / "int4"
    folder.mkdir()
    quantize_folder(source, folder, name="int4")
    before, after = (facts(one, check_folder(one)) for one in (source, folder))
    assert after["num_parameters"] == before["num_parameters"]
    assert after["quantization"] == "pilothouse_int4" and after["weight_bytes"] < before["weight_bytes"]


@torch.no_grad()
def test_importance_is_the_mean_square_of_a_layers_inputs() -> None:
    model = wide_model("llama")
    for layer in model.model.layers:
        layer.post_attention_layernorm.weight.data = torch.linspace(0.1, 10, 64)
    found = importance(model)["model.layers.1.mlp.up_proj"]
    assert found.shape == (64,) and abs(float(found.mean()) - 1) < 1e-5
    assert float(found[-8:].mean() / found[:8].mean()) > 100
    assert not any(module._forward_pre_hooks for module in model.modules())


@pytest.mark.model
def test_the_default_model_keeps_most_of_its_judgement(default_model: Path, tmp_path: Path) -> None:
    """A small model suffers from four bits; the limits are what was found, and a little."""
    text = next(iter(corpus.texts().values()))
    token_ids = AutoTokenizer.from_pretrained(default_model)(text, return_tensors="pt").input_ids[:, :256]
    quantize_folder(default_model, tmp_path, name="int4")
    exact, model = load(default_model), load(tmp_path)
    before, after = logits(exact, token_ids), logits(model, token_ids)
    perplexities = [
        float(torch.nn.functional.cross_entropy(found[0, :-1], token_ids[0, 1:]).exp())
        for found in (before, after)
    ]
    assert len(quantized_layers(model)) == 210
    assert perplexities[1] / perplexities[0] < 1.4, perplexities
    assert float((before.argmax(-1) == after.argmax(-1)).float().mean()) > 0.6
