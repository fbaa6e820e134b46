"""What torch's default dtype is while an engine runs changes no token and no log-probability."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.config import EngineConfig, RevisionSpec
from inference.execution.build import build_engine
from inference.protocol.events import Delta, Event
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from inference.scheduling.engine import Engine
from tests.inference import tiny
from tests.inference.quantization.wide import wide_folder

NUM_TOKENS = 8
OTHERS = [torch.bfloat16, torch.float16, torch.float64]
SAMPLINGS = [
    Sampling(temperature=0.0, logprobs=5),
    Sampling(temperature=0.7, seed=1, top_p=0.83, logprobs=2),
    Sampling(temperature=1.3, seed=2, top_k=7, min_p=0.013),
    Sampling(temperature=0.9, seed=3, repetition_penalty=1.17, frequency_penalty=0.3, presence_penalty=0.1),
    Sampling(temperature=1.1, seed=4, logit_bias={65: 3.3, 66: -2.7}, top_p=0.999),
]
# how the engine is set, of a family whose layers are fused or another one
CASES: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"dtype": "float32", "quantization": "int8", "quantize_head": True},
    "int8 in bfloat16": {"dtype": "bfloat16", "quantization": "int8"},
    "int4": {"dtype": "float32", "quantization": "int4"},
    "the reference": {"dtype": "float32", "attention": "reference"},
    "the model's own layers": {"dtype": "float32", "fused_layers": False},
}


@pytest.fixture
def default() -> Iterator[Callable[[torch.dtype], None]]:
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


def outputs(engine: Engine, salt: str) -> list[tuple[Any, ...]]:
    """Tokens and log-probabilities of requests with all kinds of sampling, in one batch."""
    events: list[list[Event]] = [[] for _ in SAMPLINGS]
    for number, sampling in enumerate(SAMPLINGS):
        request = GenerateRequest(
            request_id=f"{salt}{number}",
            revision="tiny",
            token_ids=tuple(tiny.prompt(20 + number)),
            owner=Owner(id="o", salt=salt),  # a new one: nothing is cached of what ran before
            sampling=replace(sampling, max_tokens=NUM_TOKENS, ignore_eos=True),
        )
        engine.submit(request, events[number].append)
    while engine.has_work:
        engine.step()
    return [
        tuple((event.token_ids, event.logprobs) for event in one if isinstance(event, Delta))
        for one in events
    ]


@pytest.mark.parametrize("name", ["llama", "gemma2"])
@pytest.mark.parametrize("case", CASES)
def test_another_default_changes_nothing(
    name: str, case: str, default: Callable[[torch.dtype], None], tmp_path: Path
) -> None:
    config = EngineConfig(
        device="cpu", num_blocks=64, block_size=4, max_batch_tokens=17, num_threads=1, **CASES[case]
    )
    spec = RevisionSpec(revision="tiny", folder=wide_folder(tmp_path, name), engine=config)
    engine = build_engine(spec)
    wanted = outputs(engine, "before")
    for other in OTHERS:
        default(other)
        assert outputs(engine, str(other)) == wanted, other
    assert all(sum(len(token_ids) for token_ids, _ in one) == NUM_TOKENS for one in wanted)
