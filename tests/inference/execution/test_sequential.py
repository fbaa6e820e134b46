"""The sequential engine is `generate`, with every limit and every parameter of the batched one."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from inference.config import EngineConfig, RevisionSpec
from inference.execution.build import assemble
from inference.execution.sequential.engine import SequentialEngine
from inference.models.loader import LoadedModel
from inference.protocol.events import Delta, Event, Finish, FinishReason
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from inference.scheduling.engine import Engine
from tests.inference import tiny

NUM_TOKENS = 12
SPEC = RevisionSpec(
    revision="tiny",
    folder=Path("unused"),
    engine=EngineConfig(block_size=4, num_blocks=200, max_batch_tokens=64),
)


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "generate"]


def unbatched(model: Any) -> LoadedModel:
    loaded = tiny.loaded(model)
    model.set_attn_implementation("sdpa")
    return replace(loaded, batching=False, note="batching is off")


def submit(engine: Engine, name: str, prompt: list[int], sampling: Sampling, **more: Any) -> list[Event]:
    events: list[Event] = []
    request = GenerateRequest(
        request_id=name,
        revision="tiny",
        token_ids=tuple(prompt),
        owner=Owner(id="o", salt="s"),
        sampling=sampling,
        **more,
    )
    engine.submit(request, events.append)
    return events


def tokens(events: list[Event]) -> list[int]:
    return [token_id for event in events if isinstance(event, Delta) for token_id in event.token_ids]


def run(engine: Engine) -> None:
    while engine.has_work:
        engine.step()


def test_greedy_requests_get_generates_tokens_one_after_another() -> None:
    model = tiny.tiny_model("llama")
    prompts = [tiny.prompt(9), tiny.prompt(30)]
    expected = [tiny.generated(model, prompt, NUM_TOKENS) for prompt in prompts]
    engine = SequentialEngine(unbatched(model), SPEC)
    greedy = Sampling(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
    events = [submit(engine, str(i), prompt, greedy) for i, prompt in enumerate(prompts)]
    engine.step()
    assert (engine.stats().num_running, engine.stats().num_waiting) == (1, 1)
    run(engine)
    assert [tokens(one) for one in events] == expected
    engine.close()


def test_an_architecture_that_is_not_batched_is_served() -> None:
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=2, n_positions=512, eos_token_id=257)
    model = GPT2LMHeadModel(config).eval()
    expected = tiny.generated(model, tiny.prompt(9), NUM_TOKENS)
    loaded = unbatched(tiny.tiny_model("llama"))
    engine = SequentialEngine(replace(loaded, model=model, config=config), SPEC)
    sampling = Sampling(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
    events = submit(engine, "a", tiny.prompt(9), sampling)
    run(engine)
    assert tokens(events) == expected


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(seed=5, max_tokens=NUM_TOKENS, top_p=0.8, logprobs=2),
        Sampling(temperature=0.0, max_tokens=NUM_TOKENS, repetition_penalty=1.5, min_tokens=6),
        Sampling(seed=1, max_tokens=NUM_TOKENS, frequency_penalty=1.0, stop=("e", "a")),
    ],
    ids=["drawn", "penalised", "stopped"],
)
def test_both_engines_treat_every_parameter_alike(sampling: Sampling) -> None:
    prompt = tiny.prompt(20)
    sequential = SequentialEngine(unbatched(tiny.tiny_model("llama")), SPEC)
    batched = assemble(tiny.loaded(tiny.tiny_model("llama")), SPEC)
    found = []
    for engine in (sequential, batched):
        events = submit(engine, "a", prompt, sampling)
        run(engine)
        end = events[-1]
        assert isinstance(end, Finish)
        text = "".join(event.text for event in events if isinstance(event, Delta))
        found.append((tokens(events), text, end.reason, end.matched_stop, end.usage))
    assert found[0] == found[1]


def test_a_cancelled_request_leaves_generate_at_once() -> None:
    engine = SequentialEngine(unbatched(tiny.tiny_model("llama")), SPEC)
    events = submit(engine, "a", tiny.prompt(9), Sampling(temperature=0.0, ignore_eos=True))
    for _ in range(3):
        engine.step()
    engine.abort("a")
    end = events[-1]
    assert isinstance(end, Finish)
    assert (end.reason, end.usage.completion_tokens) == (FinishReason.CANCELLED, 3)
    assert not engine.has_work


def test_a_request_waits_at_its_allowance_and_lets_others_pass() -> None:
    model = tiny.tiny_model("llama")
    expected = tiny.generated(model, tiny.prompt(9), NUM_TOKENS)
    engine = SequentialEngine(unbatched(model), SPEC)
    greedy = Sampling(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
    held = submit(engine, "held", tiny.prompt(9), greedy, allowance=4)
    for _ in range(6):
        engine.step()
    assert tokens(held) == expected[:4]
    other = submit(engine, "other", tiny.prompt(9), greedy)
    while not isinstance(other[-1] if other else None, Finish):
        engine.step()
    assert tokens(other) == expected
    engine.extend("held", allowance=NUM_TOKENS, is_final=True)
    run(engine)
    assert tokens(held) == expected


def test_what_generate_raises_fails_the_request_and_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.tiny_model("llama")
    engine = SequentialEngine(unbatched(model), SPEC)
    sampling = Sampling(temperature=0.0, max_tokens=2, ignore_eos=True)
    with monkeypatch.context() as broken:
        broken.setattr(model, "forward", lambda *args, **kwargs: 1 / 0)
        failed = submit(engine, "a", tiny.prompt(9), sampling)
        run(engine)
    fine = submit(engine, "b", tiny.prompt(9), sampling)
    run(engine)
    ends = [events[-1] for events in (failed, fine)]
    assert [end.reason for end in ends if isinstance(end, Finish)] == [
        FinishReason.FAILED,
        FinishReason.LENGTH,
    ]


def test_the_context_can_be_filled_to_its_last_token() -> None:
    loaded = replace(unbatched(tiny.tiny_model("llama")), max_model_len=24)
    engine = SequentialEngine(loaded, SPEC)
    events = submit(engine, "a", tiny.prompt(20), Sampling(temperature=0.0, ignore_eos=True))
    run(engine)
    assert len(tokens(events)) == 4
