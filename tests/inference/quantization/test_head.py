"""The output head, quantized where asked: with weights of its own, apart from embeddings that it shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from inference.benchmark.shapes import SHAPES
from inference.checkpoints.model_folder import CannotLoad
from inference.config import EngineConfig
from inference.models.loader import load_model
from inference.quantization.linear import QuantizedLinear, StoredLinear
from inference.quantization.registry import METHODS, quantization_config, quantize_loaded
from tests.inference.quantization.wide import wide_folder, wide_model
from tests.inference.tiny import tiny_tokenizer

TOKEN_IDS = torch.arange(48)[None]


@pytest.fixture(autouse=True)
def quiet() -> None:
    torch.set_num_threads(1)
    logging.disable_progress_bar()


@pytest.fixture(params=[False, True], ids=["own", "shared"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    return wide_folder(tmp_path / "exact", tie_word_embeddings=request.param)


def load(folder: Path, *, method: str | None = None, head: bool = True) -> Any:
    options = {"quantization_config": quantization_config(method, quantize_head=head)} if method else {}
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, **options).eval()


@torch.no_grad()
def logits(model: Any) -> torch.Tensor:
    return model(TOKEN_IDS).logits.float()


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_the_head_is_quantized_and_the_embeddings_stay(folder: Path, method: str) -> None:
    exact, model = load(folder), load(folder, method=method)
    assert isinstance(model.lm_head, QuantizedLinear)
    assert torch.equal(model.model.embed_tokens.weight, exact.model.embed_tokens.weight)
    weight = exact.lm_head.weight.float()
    assert 0 < float((model.lm_head.exact_weight() - weight).norm() / weight.norm()) < 0.12
    for name, tensor in type(model.lm_head).quantize(exact.lm_head.weight).items():
        assert torch.equal(model.lm_head.get_parameter(name), tensor), name


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_it_comes_back_bit_by_bit(folder: Path, tmp_path: Path, method: str) -> None:
    model = load(folder, method=method)
    model.save_pretrained(tmp_path / "quantized")
    again = load(tmp_path / "quantized")  # without a word about quantization
    assert isinstance(again.lm_head, QuantizedLinear)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(logits(again), logits(model))


@pytest.mark.parametrize("is_shared", [False, True])
def test_a_loaded_model_is_quantized_alike(tmp_path: Path, is_shared: bool) -> None:
    folder = wide_folder(tmp_path, tie_word_embeddings=is_shared)
    expected = load(folder, method="int8")
    model = wide_model("llama", tie_word_embeddings=is_shared).bfloat16()
    quantize_loaded(model, "int8", quantize_head=True)
    found = model.state_dict()
    assert found.keys() == expected.state_dict().keys()
    assert all(torch.equal(tensor, found[name]) for name, tensor in expected.state_dict().items())
    assert not model.config.tie_word_embeddings


def test_without_a_word_the_head_stays(folder: Path) -> None:
    model = load(folder, method="int8", head=False)
    assert type(model.lm_head) is nn.Linear
    shares = model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    assert shares == model.config.tie_word_embeddings


def test_the_engines_settings_ask_for_it_and_a_folder_without_it_says_so(
    folder: Path, tmp_path: Path
) -> None:
    config = EngineConfig(device="cpu", quantization="int4", quantize_head=True)
    assert isinstance(load_model(folder, config).model.lm_head, StoredLinear)
    for name, head in (("with", True), ("without", False)):
        load(folder, method="int4", head=head).save_pretrained(tmp_path / name)
        tiny_tokenizer().save_pretrained(tmp_path / name)
    assert isinstance(load_model(tmp_path / "with", config).model.lm_head, StoredLinear)
    with pytest.raises(CannotLoad, match=r"quantize_head .* quantize the float model anew"):
        load_model(tmp_path / "without", config)
    with pytest.raises(ValueError, match="quantize_head is of use with quantization"):
        EngineConfig(quantize_head=True)


@pytest.mark.parametrize(
    ("method", "quantize_head", "most"),
    [("int8", False, 0.57), ("int8", True, 0.54), ("int4", False, 0.37), ("int4", True, 0.32)],
)
def test_an_8b_model_takes_the_share_of_memory_that_it_should(
    method: str, quantize_head: bool, most: float
) -> None:
    """Of the bytes in bfloat16; nothing is allocated."""
    from transformers import LlamaConfig
    from transformers.quantizers import AutoHfQuantizer

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPES["llama-8b"]), dtype=torch.bfloat16)
    before = num_bytes(model)
    config = quantization_config(method, quantize_head=quantize_head)
    AutoHfQuantizer.from_config(config, pre_quantized=True)._process_model_before_weight_loading(model)
    assert num_bytes(model) / before <= most


def num_bytes(model: nn.Module) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in model.parameters())
