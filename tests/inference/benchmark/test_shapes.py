"""Random models of a known shape, plain and quantized, without a folder of files."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from inference.benchmark import shapes
from inference.config import EngineConfig
from inference.models.loader import LoadedModel
from inference.quantization.linear import QuantizedLinear
from inference.quantization.registry import METHODS

TINY = {
    "vocab_size": 320,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}


@pytest.fixture(autouse=True)
def tiny_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.SHAPES, "tiny", TINY)


def made(**settings: str) -> LoadedModel:
    config = EngineConfig(device="cpu", dtype="float32", **settings)  # type: ignore[arg-type]
    return shapes.random_model("tiny", config, max_model_len=64)


@pytest.mark.parametrize("method", METHODS)
def test_a_quantized_random_model_is_the_plain_one_quantized(method: str) -> None:
    plain, quantized = made(), made(quantization=method)
    layers = {
        name: layer for name, layer in quantized.model.named_modules() if isinstance(layer, QuantizedLinear)
    }
    assert len(layers) == 2 * 7
    assert type(quantized.model.lm_head) is nn.Linear
    for name, layer in layers.items():
        exact = plain.model.get_parameter(f"{name}.weight")
        assert float((layer.exact_weight() - exact).norm() / exact.norm()) < 0.15
        assert not any(parameter.is_meta or parameter.requires_grad for parameter in layer.parameters())
    assert quantized.weight_bytes < 0.5 * plain.weight_bytes
    assert quantized.card("tiny").quantization == f"pilothouse_{method}"


def test_a_quantized_random_model_runs() -> None:
    token_ids = torch.arange(9)[None]
    with torch.inference_mode():
        outputs = []
        for loaded in (made(), made(quantization="int8")):
            loaded.model.set_attn_implementation("sdpa")
            outputs.append(loaded.model(token_ids).logits)
    assert float((outputs[1] - outputs[0]).norm() / outputs[0].norm()) < 0.05
