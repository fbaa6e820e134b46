"""The whole engine, scheduler and all, gives the very tokens of transformers' greedy `generate`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from inference.config import EngineConfig, RevisionSpec
from inference.execution.build import assemble
from inference.execution.runner import ModelRunner
from inference.protocol.events import Delta, Event, Finish, FinishReason
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from inference.scheduling.engine import Engine
from tests.inference import tiny

NUM_TOKENS = 24
PROMPTS = [tiny.prompt(length) for length in (30, 1, 11, 45, 30)]  # the last is the first once more


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def expected() -> dict[str, list[list[int]]]:
    return {
        name: [tiny.generated(tiny.tiny_model(name), prompt, NUM_TOKENS) for prompt in PROMPTS]
        for name in tiny.CONFIGS
    }


def engine(name: str, *, attention: str, num_blocks: int = 100, fused: bool = True) -> Engine:
    config = EngineConfig(
        block_size=4, num_blocks=num_blocks, max_batch_tokens=17, max_num_seqs=4, fused_layers=fused
    )
    spec = RevisionSpec(revision="tiny", folder=Path("unused"), engine=config)
    return assemble(tiny.loaded(tiny.tiny_model(name), attention=attention), spec)


def run(engine: Engine, *, steps_between_arrivals: int) -> tuple[list[list[int]], list[Finish]]:
    """Submit PROMPTS one after another while the engine runs; their output tokens and ends, in order."""
    events: list[list[Event]] = [[] for _ in PROMPTS]
    for index, prompt in enumerate(PROMPTS):
        request = GenerateRequest(
            request_id=str(index),
            revision="tiny",
            token_ids=tuple(prompt),
            owner=Owner(id="o", salt="s"),
            sampling=Sampling(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True),
        )
        engine.submit(request, events[index].append)
        for _ in range(steps_between_arrivals):
            engine.step()
    while engine.has_work:
        engine.step()
    engine.check_integrity()
    outputs = [
        [token_id for event in one if isinstance(event, Delta) for token_id in event.token_ids]
        for one in events
    ]
    ends = [event for one in events for event in one if isinstance(event, Finish)]
    return outputs, ends


@pytest.mark.parametrize("attention", ["reference", "cpu"])
@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_staggered_arrivals_prefix_hits_and_chunks_change_no_token(
    name: str, attention: str, expected: dict[str, list[list[int]]]
) -> None:
    outputs, ends = run(engine(name, attention=attention), steps_between_arrivals=3)
    assert outputs == expected[name]
    assert [end.reason for end in ends] == [FinishReason.LENGTH] * len(PROMPTS)
    assert ends[-1].usage.cached_tokens >= 4, "the prompt came a second time, but no block of it was found"


@pytest.mark.parametrize("name", tiny.LLAMA_LIKE)
def test_without_fused_layers_transformers_own_forward_gives_the_same_tokens(
    name: str, expected: dict[str, list[list[int]]]
) -> None:
    plain = engine(name, attention="cpu", fused=False)
    assert isinstance(plain.runner, ModelRunner) and not plain.runner.is_fused
    outputs, _ = run(plain, steps_between_arrivals=3)
    assert outputs == expected[name]


@pytest.mark.parametrize("attention", ["reference", "cpu"])
@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_preemption_changes_no_token(name: str, attention: str, expected: dict[str, list[list[int]]]) -> None:
    small = engine(name, attention=attention, num_blocks=22)
    outputs, ends = run(small, steps_between_arrivals=0)
    assert outputs == expected[name]
    assert sum(end.timings.num_preemptions for end in ends) > 0, "the pool was to be too small"
