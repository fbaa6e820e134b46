"""Every way to keep weights, in every dtype and over every pool: the same model, or a refusal by name."""

from __future__ import annotations

from itertools import pairwise, product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from inference.checkpoints.model_folder import CannotLoad
from inference.config import EngineConfig
from inference.execution.build import runner_for
from inference.models.loader import load_model
from inference.scheduling.step_plan import ScheduledChunk, StepPlan
from tests.inference import tiny
from tests.inference.quantization.wide import wide_model

DTYPES = ("float32", "bfloat16", "float16")
QUANTIZATIONS = (None, "int8", "int4", "w8a8", "fp8")
NUM_TOKENS = 40
EDGES = (0, 23, 24, 25, NUM_TOKENS)  # a prompt in two parts, and single tokens between them
# What a dtype rounds logits by, relative to all of them; of fp8, what keys and values are kept in
ROUNDING = {"float32": 2e-3, "bfloat16": 2.5e-2, "float16": 5e-3}
FP8_POOL = 0.15
# Rows that become 8 bits themselves: other ones where the states differ by a rounding
EIGHT_BITS = {"w8a8": 0.03, "fp8": 0.1}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Of bfloat16 files, whose weights are the same numbers in each dtype."""
    found = {}
    for name in ("qwen3", "gemma2"):
        found[name] = tmp_path_factory.mktemp(name)
        tiny.tiny_tokenizer().save_pretrained(found[name])
        model = wide_model(name)
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.data *= 0.5  # scores near each other: a rounding is no other choice then
        model.to(torch.bfloat16).save_pretrained(found[name])
    return found


def logits(folder: Path, **settings: Any) -> Tensor:
    """After every token of a text, float32 [NUM_TOKENS, vocab]."""
    config = EngineConfig(device="cpu", block_size=4, max_batch_tokens=64, num_threads=1, **settings)
    runner = runner_for(load_model(folder, config), config, num_blocks=12)
    sequence = tiny.sequence(tiny.prompt(NUM_TOKENS))
    sequence.block_table = (11, 3, 7, 0, 10, 2, 9, 1, 8, 5)
    parts = [
        runner.score(StepPlan((ScheduledChunk(sequence, start, end - start),)).input)
        for start, end in pairwise(EDGES)
    ]
    return torch.cat(parts).float()


def off(found: Tensor, wanted: Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("quantization", QUANTIZATIONS)
@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
def test_a_dtype_and_a_pool_change_no_more_than_they_round(
    name: str, quantization: str | None, folders: dict[str, Path]
) -> None:
    """The oracle: the same weights, transformers' own layers and attention one by one, in float32."""
    settings = {"quantization": quantization}
    wanted = logits(folders[name], dtype="float32", attention="reference", fused_layers=False, **settings)
    assert wanted.isfinite().all()
    tolerance = EIGHT_BITS.get(quantization or "", 0.0)
    for dtype, fused, attention in product(DTYPES, (True, False), ("cpu", "reference")):
        case = {"dtype": dtype, "fused_layers": fused, "attention": attention} | settings
        found = off(logits(folders[name], **case), wanted)
        assert found < ROUNDING[dtype] + tolerance, (case, found)
        if attention == "reference":
            found = off(logits(folders[name], kv_dtype="fp8", **case), wanted)
            assert found < ROUNDING[dtype] + tolerance + FP8_POOL, (case, found)
        else:
            with pytest.raises(CannotLoad, match="kv_dtype is set to fp8"):
                logits(folders[name], kv_dtype="fp8", **case)
