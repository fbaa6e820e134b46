"""Guessed tokens on an NVIDIA GPU: the same tokens as without, through graphs and launched as it comes.

Run by hand on a GPU machine, which needs no Django: see docs/benchmarks.md. Skipped where torch sees no GPU.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.benchmark.repeating import make_repeating
from inference.config import EngineConfig, RevisionSpec
from inference.execution.build import build_engine
from inference.protocol.events import Delta, Event
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from inference.protocol.stats import RevisionStats
from tests.gpu.device import DEVICE, needs_gpu, sized
from tests.inference import tiny

pytestmark = pytest.mark.gpu

NUM_TOKENS = 120
PASSAGE = range(100, 120)
SAMPLINGS = {
    "greedy": Sampling(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True),
    "greedy too": Sampling(temperature=0.0, max_tokens=NUM_TOKENS // 2, ignore_eos=True),
    "seeded": Sampling(temperature=0.3, seed=7, max_tokens=NUM_TOKENS, ignore_eos=True),
    "top_p": Sampling(temperature=0.6, top_p=0.5, seed=8, max_tokens=NUM_TOKENS, ignore_eos=True),
    "log-probabilities": Sampling(temperature=0.0, logprobs=2, max_tokens=NUM_TOKENS, ignore_eos=True),
    "penalties": Sampling(temperature=0.0, frequency_penalty=0.2, max_tokens=40, ignore_eos=True),
}
PATHS: dict[str, dict[str, Any]] = {
    "all fast paths": {},
    "no overlap": {"overlap": False},
    "no graphs": {"cuda_graphs": False},
    "transformers' layers": {"fused_layers": False},
    "reference": {"attention": "reference"},
    "few blocks": {"num_blocks": 60},
    "chunks beside decode": {"max_batch_tokens": 17},
}


@pytest.fixture(autouse=True)
def exact_products() -> Iterator[None]:
    """Without TF32, which would round differently for different batches."""
    torch.backends.cuda.matmul.allow_tf32 = False
    yield


@pytest.fixture(scope="module", params=["llama", "qwen3", "gemma2"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp(request.param)
    model = tiny.tiny_model(request.param)
    model.config.tie_word_embeddings = model.config.get_text_config().tie_word_embeddings = False
    make_repeating(model, loudness=4.0, passage=PASSAGE)
    model.save_pretrained(made)
    tiny.tiny_tokenizer().save_pretrained(made)
    return made


def outputs_of(
    folder: Path, num_draft_tokens: int, **path: Any
) -> tuple[dict[str, list[int]], RevisionStats]:
    config = EngineConfig(
        device=DEVICE, dtype="float32", block_size=4, max_num_seqs=8, num_draft_tokens=num_draft_tokens,
        **{"num_blocks": 400, "max_batch_tokens": 64, **path},
    )  # fmt: skip
    engine = build_engine(RevisionSpec("tiny", folder, config))
    events: dict[str, list[Event]] = {name: [] for name in SAMPLINGS}
    for index, (name, sampling) in enumerate(SAMPLINGS.items()):
        prompt = (*tiny.prompt(30 + index), *PASSAGE)
        engine.submit(GenerateRequest(name, "tiny", prompt, Owner("o", "s"), sampling), events[name].append)
        engine.step()
    while engine.has_work:
        engine.step()
    engine.check_integrity()
    outputs = {
        name: [token_id for event in seen if isinstance(event, Delta) for token_id in event.token_ids]
        for name, seen in events.items()
    }
    return outputs, engine.stats()


@pytest.mark.parametrize("path", sized(list(PATHS), dry=["all fast paths", "few blocks"]))
def test_guesses_change_no_token(folder: Path, path: str) -> None:
    plain, plain_stats = outputs_of(folder, 0, **PATHS[path])
    guessed, stats = outputs_of(folder, 4, **PATHS[path])
    assert guessed == plain
    assert [len(output) for output in plain.values()] == [one.max_tokens for one in SAMPLINGS.values()]
    assert stats.num_accepted_tokens > 20 and plain_stats.num_drafted_tokens == 0
    assert stats.num_steps < plain_stats.num_steps


@needs_gpu
def test_a_batch_of_one_has_graphs_for_its_guesses(folder: Path) -> None:
    engine = build_engine(
        RevisionSpec("tiny", folder, EngineConfig(device=DEVICE, max_num_seqs=1, num_draft_tokens=4))
    )
    assert engine.runner._graphs.fits(5)  # type: ignore[attr-defined]


def test_a_repeated_answer_takes_a_few_steps_and_steps_without_guesses_overlap(folder: Path) -> None:
    config = EngineConfig(device=DEVICE, dtype="float32", num_blocks=400, num_draft_tokens=4)
    engine = build_engine(RevisionSpec("tiny", folder, config))
    prompt = tuple(PASSAGE) * 3
    sampling = Sampling(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
    engine.submit(GenerateRequest("r", "tiny", prompt, Owner("o", "s"), sampling), lambda event: None)
    while engine.has_work:
        engine.step()
    stats = engine.stats()
    assert stats.num_drafted_tokens > 0
    assert stats.num_steps < 0.8 * NUM_TOKENS
