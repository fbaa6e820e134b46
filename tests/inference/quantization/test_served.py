"""The loader serves int8 both ways: quantized while loading, and from a quantized folder without a word."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import torch

from inference.config import EngineConfig
from inference.models.loader import load_model
from inference.quantization.int8 import Int8Linear
from tests.inference.convert.hostile import model_folder

CONFIG = EngineConfig(device="cpu", dtype="float32")
INT8 = EngineConfig(device="cpu", dtype="float32", quantization="int8")


def test_a_quantized_folder_needs_no_word_and_gives_the_same_logits(tmp_path: Path) -> None:
    on_load = load_model(model_folder(tmp_path / "exact"), INT8)
    on_load.model.save_pretrained(tmp_path / "int8")
    on_load.tokenizer.save_pretrained(tmp_path / "int8")
    for config in (CONFIG, INT8):  # asking for what the folder is already changes nothing
        reloaded = load_model(tmp_path / "int8", config)
        assert sum(isinstance(module, Int8Linear) for module in reloaded.model.modules()) == 21
        assert reloaded.card("r").quantization == on_load.card("r").quantization == "pilothouse_int8"
        for name, tensor in on_load.model.state_dict().items():
            assert torch.equal(tensor, reloaded.model.state_dict()[name]), name


def test_a_fresh_process_can_load_a_quantized_folder(tmp_path: Path) -> None:
    """In this process other tests have made the method known; in a server only the loader does."""
    on_load = load_model(model_folder(tmp_path), INT8)
    on_load.model.save_pretrained(tmp_path)
    script = (
        "import sys; from pathlib import Path; from inference.config import EngineConfig;"
        "from inference.models.loader import load_model;"
        "print(load_model(Path(sys.argv[1]), EngineConfig(device='cpu')).quantization)"
    )
    found = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == "pilothouse_int8"
