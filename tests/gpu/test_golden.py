"""The golden list on an NVIDIA GPU: `generate`'s tokens in float32, transformers' own nearness in bfloat16.

Llama and its near relations, which run fused, are in test_cuda.py by more paths. What is here runs
transformers' own layers over our kernels, captured where it can be.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from inference.config import EngineConfig, RevisionSpec
from inference.execution.build import build_engine, runner_for
from inference.models.loader import load_model
from inference.models.supported import has_experts
from inference.scheduling.step_plan import ScheduledChunk, StepPlan
from tests.gpu.device import DEVICE, IS_DRY_RUN
from tests.gpu.test_cuda import NUM_TOKENS, PROMPTS, run
from tests.inference import tiny

pytestmark = pytest.mark.gpu
PATHS: dict[str, dict[str, Any]] = {
    "all fast paths": {},
    "reference": {"attention": "reference"},
}
TEXT = tiny.prompt(60)  # longer than the windows
NUM_PREFILLED = 31


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    torch.backends.cuda.matmul.allow_tf32 = False
    yield


@pytest.fixture(scope="module", params=list(tiny.OTHERS))
def tiny_folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    folder = tmp_path_factory.mktemp(request.param)
    tiny.tiny_model(request.param).save_pretrained(folder)
    tiny.tiny_tokenizer().save_pretrained(folder)
    return request.param, folder


@cache
def expected(name: str) -> list[list[int]]:
    return [tiny.generated(tiny.tiny_model(name), prompt, NUM_TOKENS) for prompt in PROMPTS]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize(("num_blocks", "steps_between_arrivals"), [(100, 3), (22, 0)])
def test_chunks_prefix_hits_and_preemption_change_no_token(
    tiny_folder: tuple[str, Path], num_blocks: int, steps_between_arrivals: int, path: str
) -> None:
    name, folder = tiny_folder
    config = EngineConfig(
        **PATHS[path],
        device=DEVICE,
        dtype="float32",
        block_size=4,
        num_blocks=num_blocks,
        max_batch_tokens=17,
        max_num_seqs=4,
    )
    engine = build_engine(RevisionSpec("tiny", folder, config))
    outputs, ends = run(engine, steps_between_arrivals=steps_between_arrivals)
    assert outputs == expected(name)
    if not IS_DRY_RUN:
        has_note = path != "reference" and has_experts(tiny.CONFIGS[name])
        assert ("no CUDA graphs" in engine.card.note) == has_note
    num_preemptions = sum(end.timings.num_preemptions for end in ends)
    assert num_preemptions > 0 if num_blocks == 22 else ends[-1].usage.cached_tokens >= 4


def test_captured_decode_in_bfloat16_is_as_near_to_float32_as_transformers(
    tiny_folder: tuple[str, Path],
) -> None:
    """By the middle of the tokens: rounding sends a few of them to other experts, here as there."""
    name, folder = tiny_folder
    wanted = slice(NUM_PREFILLED - 1, len(TEXT) - 1)
    exact = tiny.tiny_model(name)
    theirs = tiny.tiny_model(name).to(DEVICE, torch.bfloat16)
    with torch.inference_mode():
        right = exact(torch.tensor([TEXT])).logits[0, wanted].float()
        near = theirs(torch.tensor([TEXT], device=DEVICE)).logits[0, wanted].float().cpu()
    assert distance(decoded(folder), right) < 2 * distance(near, right) + 0.01


def decoded(folder: Path) -> Tensor:
    """Logits after each token of TEXT from the last prefilled one on, decoded one by one, beside others."""
    config = EngineConfig(device=DEVICE, dtype="bfloat16", block_size=4, max_batch_tokens=128, max_num_seqs=4)
    loaded = load_model(folder, config)
    runner = runner_for(loaded, config, num_blocks=100)
    if DEVICE == "cuda":
        assert loaded.why_not_captured == "" or torch.cuda.get_device_capability()[0] not in (9, 10)
        if not loaded.why_not_captured:
            assert list(runner.capture())
    sequences = [tiny.sequence(TEXT[:NUM_PREFILLED]), tiny.sequence(TEXT[:7]), tiny.sequence(TEXT[:20])]
    for index, sequence in enumerate(sequences):
        sequence.block_table = tuple(range(index, 90, 3))
    found = []
    for end in range(NUM_PREFILLED, len(TEXT)):
        rows = tuple(
            ScheduledChunk(one, one.num_computed_tokens, len(one.token_ids) - one.num_computed_tokens)
            for one in sequences
        )
        found.append(runner.run(StepPlan(rows).input)[0].float().cpu())
        for sequence in sequences:
            sequence.num_computed_tokens = len(sequence.token_ids)
            sequence.token_ids.append(TEXT[end])
    return torch.stack(found)


def distance(logits: Tensor, right: Tensor) -> float:
    """Relative, of the token in the middle."""
    return ((logits - right).norm(dim=-1) / right.norm(dim=-1)).median().item()
