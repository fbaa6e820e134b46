"""The error figures are those of the layers: small for int8, large for a layer that was spoilt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from inference.quantization.layer_error import output_errors, weight_errors
from inference.quantization.registry import quantization_config
from tests.inference.tiny import tiny_model

SPOILT = "model.layers.1.mlp.up_proj"


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Any, Any]:
    exact = tiny_model("llama")
    exact.save_pretrained(tmp_path)
    quantized = AutoModelForCausalLM.from_pretrained(
        tmp_path, quantization_config=quantization_config("int8")
    )
    return exact, quantized.eval()


def test_weights_are_off_by_less_than_a_hundredth(pair: tuple[Any, Any]) -> None:
    errors = weight_errors(*pair)
    assert len(errors) == 21
    assert all(0.001 < layer.weight_error < 0.01 for layer in errors)


def test_a_spoilt_layer_stands_out_and_its_neighbours_do_not(pair: tuple[Any, Any]) -> None:
    exact, quantized = pair
    quantized.get_submodule(SPOILT).weight_scale.data.mul_(2)
    errors = {layer.name: layer for layer in output_errors(exact, quantized, torch.arange(20)[None])}
    assert errors[SPOILT].weight_error == pytest.approx(1.0, abs=0.01)
    assert errors[SPOILT].output_error == pytest.approx(1.0, abs=0.01)
    others = [layer.output_error for name, layer in errors.items() if name != SPOILT]
    assert all(error is not None and error < 0.02 for error in others)  # each saw its exact twin's inputs
    assert not any(module._forward_hooks for module in exact.modules())
