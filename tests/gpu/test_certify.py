"""Certificates on an NVIDIA GPU: measured through the kernels that serve there, with the CPU's figures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.certify import compare as certify
from inference.convert.quantize import quantize_folder
from tests.gpu.device import DEVICE, needs_gpu, sized
from tests.inference.tiny import tiny_model, tiny_tokenizer

pytestmark = pytest.mark.gpu


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    exact, int8 = tmp_path / "exact", tmp_path / "int8"
    tiny_model("qwen3").save_pretrained(exact)
    tiny_tokenizer().save_pretrained(exact)
    int8.mkdir()
    quantize_folder(exact, int8, name="int8")
    return exact, int8


def measured(folders: tuple[Path, Path], **settings: Any) -> dict[str, Any]:
    exact, int8 = folders
    chosen = json.dumps(settings)
    arguments = ["--revision-folder", str(int8), "--parent-folder", str(exact)]
    return certify.run(
        certify._parser().parse_args([*arguments, "--settings", chosen, "--parent-settings", chosen])
    )


def test_the_figures_are_those_of_the_cpu(folders: tuple[Path, Path]) -> None:
    torch.backends.cuda.matmul.allow_tf32 = False
    cpu = measured(folders, device="cpu", dtype="float32")["figures"]
    told = measured(folders, device=DEVICE, dtype="float32")
    assert told["measured_by"]["revision"]["attention"] == sized("triton", dry="cpu")
    assert told["measured_by"]["revision"]["device"].startswith(DEVICE)
    gpu = told["figures"]
    for name in ("perplexity", "parent_perplexity", "kl_mean", "worst_weight_error"):
        assert gpu[name] == pytest.approx(cpu[name], rel=0.02), name
    assert gpu["top1_agreement"] == pytest.approx(cpu["top1_agreement"], abs=0.01)
    assert gpu["greedy_prefix"] == pytest.approx(cpu["greedy_prefix"], abs=8)


@needs_gpu
def test_bfloat16_as_served_by_default_is_measured(folders: tuple[Path, Path]) -> None:
    told = measured(folders, device=DEVICE)
    assert told["measured_by"]["revision"]["dtype"] == "bfloat16"
    assert told["figures"]["num_broken"] == 0 and told["figures"]["top1_agreement"] > 0.5
