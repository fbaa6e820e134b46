"""FP8 weights and activations: the reference on a CPU, and the way through files. Kernels: tests/gpu."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging

from inference.checkpoints.model_folder import CannotLoad
from inference.config import EngineConfig
from inference.kernels.rows import QuantizedRows, quantize_rows, saturated
from inference.models.device import check_fp8
from inference.models.loader import load_model
from inference.quantization.fp8 import DTYPE, Fp8Linear
from inference.quantization.registry import quantization_config
from tests.inference.convert.hostile import model_folder
from tests.inference.quantization.test_int8 import TEXT
from tests.inference.tiny import tiny_model

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
    options = {"quantization_config": quantization_config("fp8")} if on_load else {}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, **options).eval()


@torch.no_grad()
def logits(model: Any) -> Tensor:
    found: Tensor = model(TOKEN_IDS).logits
    return found.float()


def fp8_layers(model: nn.Module) -> dict[str, Fp8Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, Fp8Linear)}


def same(one: Tensor, other: Tensor) -> bool:
    """Bit by bit: fp8 tensors cannot be compared on a CPU otherwise."""
    return one.dtype == other.dtype and torch.equal(one.view(torch.uint8), other.view(torch.uint8))


def random_layer(num_outputs: int, width: int, *, bias: bool = False) -> tuple[Fp8Linear, nn.Linear]:
    exact = nn.Linear(width, num_outputs, bias=bias)
    layer = Fp8Linear.placeholder(exact, is_quantized=True, device=torch.device("cpu"))
    for name, tensor in Fp8Linear.quantize(exact.weight.detach()).items():
        layer.get_parameter(name).data.copy_(tensor)
    if bias:
        layer.get_parameter("bias").data.copy_(exact.bias.detach())
    return layer, exact


@pytest.mark.parametrize(("dtype", "step"), [(DTYPE, 2**-4), (torch.int8, 1 / 127 / 2)])
def test_a_row_in_8_bits_is_off_by_half_a_step_at_most(dtype: torch.dtype, step: float) -> None:
    exact = torch.randn(64, 96) * torch.logspace(-6, 3, 64)[:, None]
    rows = quantize_rows(exact, dtype)
    assert rows.values.dtype == dtype and rows.scale.shape == (64, 1) and rows.dtype == exact.dtype
    largest = exact.abs().amax(dim=-1, keepdim=True)
    # a float's step grows with the number, down to where there is one step for all; an integer's never does
    allowed = torch.maximum(exact.abs(), largest * 2**-6 / 448) if dtype.is_floating_point else largest
    assert ((rows.exact() - exact).abs() <= allowed * step * 1.001).all()
    assert (rows.values.float().abs().amax(dim=-1) == (448 if dtype.is_floating_point else 127)).all()


def test_a_row_of_zeros_stays_zero() -> None:
    rows = quantize_rows(torch.zeros(2, 8), DTYPE)
    assert not rows.exact().any() and torch.isfinite(rows.scale).all()


def test_what_is_too_large_becomes_the_largest_and_a_nan_stays_one() -> None:
    found = saturated(torch.tensor([1e9, -1e9, float("inf"), 449.0, 464.1, 3.0, float("nan")]), DTYPE).float()
    assert found[:6].tolist() == [448.0, -448.0, 448.0, 448.0, 448.0, 3.0]
    assert found[6].isnan()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_that_of_the_quantized_weight_and_the_quantized_rows(dtype: torch.dtype) -> None:
    layer, exact = random_layer(96, 64, bias=True)
    x = torch.randn(2, 5, 64).to(dtype)
    rows = quantize_rows(x, DTYPE)
    expected = rows.exact() @ layer.exact_weight().T + exact.bias
    for given in (x, QuantizedRows(rows.values, rows.scale, dtype)):
        found = layer(given)
        assert found.dtype == dtype or dtype == torch.bfloat16  # a float32 bias widens
        assert float((found.float() - expected).norm() / expected.norm()) < 0.005
    error = float((layer(x).float() - exact(x.float())).norm() / exact(x.float()).norm())
    assert 0.005 < error < 0.06  # both sides are rounded to three bits


def test_linear_layers_become_fp8_and_the_head_stays(exact_folder: Path) -> None:
    model = load(exact_folder, on_load=True)
    assert len(fp8_layers(model)) == 3 * 7
    assert type(model.lm_head) is nn.Linear
    assert all(layer.weight.dtype == DTYPE for layer in fp8_layers(model).values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_quantizing_on_load_gives_the_quantized_weights_of_the_file(
    exact_folder: Path, dtype: torch.dtype
) -> None:
    exact = load(exact_folder, dtype=dtype)
    for name, layer in fp8_layers(load(exact_folder, dtype=dtype, on_load=True)).items():
        expected = Fp8Linear.quantize(exact.get_parameter(f"{name}.weight"))
        assert layer.weight.float().any()
        assert same(layer.weight, expected["weight"]) and same(layer.weight_scale, expected["weight_scale"])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_saved_model_comes_back_bit_by_bit(exact_folder: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    model = load(exact_folder, dtype=dtype, on_load=True)
    model.save_pretrained(tmp_path / "fp8")
    again = load(tmp_path / "fp8", dtype=dtype)  # without a word about quantization
    assert len(fp8_layers(again)) == 3 * 7
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(same(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(logits(model), logits(again))


def test_fp8_and_its_scales_stay_when_a_quantized_folder_is_loaded_as_bfloat16(
    exact_folder: Path, tmp_path: Path
) -> None:
    load(exact_folder, on_load=True).save_pretrained(tmp_path / "fp8")
    model = load(tmp_path / "fp8", dtype=torch.bfloat16)
    layer = next(iter(fp8_layers(model).values()))
    assert (layer.weight.dtype, layer.weight_scale.dtype) == (DTYPE, torch.float32)
    assert model.model.norm.weight.dtype == torch.bfloat16


def test_the_logits_are_those_of_a_float_model_whose_weights_and_inputs_were_rounded(
    exact_folder: Path,
) -> None:
    model, rounded = load(exact_folder, on_load=True), load(exact_folder)
    exact = logits(rounded)
    for name, layer in fp8_layers(model).items():
        twin = rounded.get_submodule(name)
        twin.weight.data.copy_(layer.exact_weight())
        twin.register_forward_pre_hook(lambda _, inputs: quantize_rows(inputs[0], DTYPE).exact())
    expected, found = logits(rounded), logits(model)
    assert float((found - expected).norm() / expected.norm()) < 0.02
    # Random weights of this size are hard on 8 bits: trained ones keep closer.
    assert 0.02 < float((found - exact).norm() / exact.norm()) < 0.5


@torch.no_grad()
def test_joined_layers_give_the_same_products_and_share_memory() -> None:
    pairs = [random_layer(num_outputs, 64, bias=True) for num_outputs in (32, 16, 48)]
    x = torch.randn(3, 64)
    layers = [layer for layer, _ in pairs]
    before = [layer(x) for layer in layers]
    whole = Fp8Linear.joined(layers)
    torch.testing.assert_close(whole(x), torch.cat(before, dim=-1))
    for layer, product in zip(layers, before, strict=True):
        assert torch.equal(layer(x), product)
        assert layer.weight.untyped_storage().data_ptr() == whole.weight.untyped_storage().data_ptr()


def test_the_loader_serves_fp8_both_ways(tmp_path: Path) -> None:
    config = EngineConfig(device="cpu", dtype="float32", quantization="fp8")
    on_load = load_model(model_folder(tmp_path / "exact"), config)
    on_load.model.save_pretrained(tmp_path / "fp8")
    on_load.tokenizer.save_pretrained(tmp_path / "fp8")
    again = load_model(tmp_path / "fp8", EngineConfig(device="cpu", dtype="float32"))
    assert again.card("r").quantization == on_load.card("r").quantization == "pilothouse_fp8"
    assert again.weight_bytes == on_load.weight_bytes


@pytest.mark.parametrize("settings", [{"quantization": "fp8"}, {"kv_dtype": "fp8"}])
def test_a_gpu_that_cannot_multiply_fp8_is_refused(
    settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, device = EngineConfig(**settings), torch.device("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (8, 0))
    name = next(iter(settings))
    with pytest.raises(CannotLoad, match=rf"{name}.*fp8.*8\.9.*8\.0"):
        check_fp8(config, device, quantization=None)
    with pytest.raises(CannotLoad, match=r"8\.9"):
        check_fp8(EngineConfig(), device, quantization="pilothouse_fp8")  # as the folder says
    check_fp8(EngineConfig(quantization="int8"), device, quantization=None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: (9, 0))
    check_fp8(config, device, quantization="pilothouse_fp8")
    check_fp8(EngineConfig(quantization="fp8"), torch.device("cpu"), quantization=None)


@pytest.mark.model
def test_the_default_model_keeps_its_judgement(default_model: Path) -> None:
    token_ids = AutoTokenizer.from_pretrained(default_model)(TEXT, return_tensors="pt").input_ids
    with torch.no_grad():
        before, after = (load(default_model, on_load=on_load)(token_ids).logits for on_load in (False, True))
    perplexities = [
        float(torch.nn.functional.cross_entropy(found[0, :-1], token_ids[0, 1:]).exp())
        for found in (before, after)
    ]
    assert abs(perplexities[1] / perplexities[0] - 1) < 0.12  # 8.7 % on a text of 81 tokens
    assert float((before.argmax(-1) == after.argmax(-1)).float().mean()) > 0.85
    assert float((before - after).norm() / before.norm()) < 0.15
