"""Each batched architecture in int8: every linear layer, served as it generates, or none and refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from torch import nn

from inference.attention import base
from inference.checkpoints.model_folder import OWN_METHODS, CannotLoad
from inference.config import EngineConfig, RevisionSpec
from inference.convert.quantize import quantize_folder
from inference.execution.build import assemble
from inference.models.loader import load_model
from inference.models.supported import has_experts
from inference.quantization.int8 import Int8Linear
from inference.quantization.quantizer import LinearConfig
from inference.quantization.registry import METHODS
from tests.inference import tiny
from tests.inference.golden.test_engine_equals_generate import NUM_TOKENS, PROMPTS, run

EXPERTS = [name for name, config in tiny.CONFIGS.items() if has_experts(config)]
DENSE = [name for name in tiny.OTHERS if name not in EXPERTS]
INT8 = EngineConfig(
    device="cpu",
    dtype="float32",
    quantization="int8",
    block_size=4,
    num_blocks=100,
    max_batch_tokens=17,
    max_num_seqs=4,
)


def folder_of(name: str, folder: Path) -> Path:
    tiny.tiny_model(name).save_pretrained(folder)
    tiny.tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.parametrize("name", DENSE)
def test_every_linear_layer_is_quantized_and_served_as_it_generates(name: str, tmp_path: Path) -> None:
    loaded = load_model(folder_of(name, tmp_path), INT8)
    plain = [part for part, module in loaded.model.named_modules() if type(module) is nn.Linear]
    assert loaded.batching and plain == ["lm_head"]
    assert any(isinstance(module, Int8Linear) for module in loaded.model.modules())
    expected = [tiny.generated(loaded.model, prompt, NUM_TOKENS) for prompt in PROMPTS]
    loaded.model.set_attn_implementation(base.NAME)
    engine = assemble(loaded, RevisionSpec("tiny", tmp_path, INT8))
    assert run(engine, steps_between_arrivals=3)[0] == expected


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_are_not_half_quantized(name: str, tmp_path: Path) -> None:
    folder = folder_of(name, tmp_path / "exact")
    with pytest.raises(CannotLoad, match=r"holds many experts .* with quantization off"):
        load_model(folder, INT8)
    with pytest.raises(CannotLoad, match="holds many experts"):
        quantize_folder(folder, tmp_path / "int8", name="int8")
    assert load_model(folder, EngineConfig(device="cpu", dtype="float32")).batching


def test_our_methods_are_named_as_folders_tell_them_by() -> None:
    for config in METHODS.values():
        assert issubclass(config, LinearConfig) and config.METHOD.startswith(OWN_METHODS)
