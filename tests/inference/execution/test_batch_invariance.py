"""Batch-invariant mode: a request's tokens and log-probabilities, to the bit, whatever runs beside it."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.checkpoints.model_folder import CannotLoad
from inference.config import EngineConfig, RevisionSpec
from inference.execution.build import assemble
from inference.protocol.events import Delta, Event, Finish
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from inference.scheduling.batch_invariance import ChunkAlignment
from inference.scheduling.engine import Engine
from inference.scheduling.prefill_budget import PrefillBudget, StepBudget
from inference.scheduling.step_plan import ScheduledChunk, StepPlan
from tests.inference import tiny
from tests.inference.scheduling.fake_model import make_bench, oracle

NUM_TOKENS = 12
PROMPT = tiny.prompt(45)
GREEDY = Sampling(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=3)
DRAWN = Sampling(temperature=0.9, top_p=0.95, seed=3, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=3)
Said = list[tuple[int, Any]]  # tokens, each with its log-probability and the best others


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def engine(
    name: str = "llama", *, dtype: torch.dtype = torch.float32, attention: str = "cpu", **settings: Any
) -> Engine:
    options: dict[str, Any] = {
        "block_size": 4,
        "num_blocks": 1000,
        "max_batch_tokens": 64,
        "max_num_seqs": 32,
    }
    config = EngineConfig(**(options | {"batch_invariant": True} | settings))
    loaded = replace(tiny.loaded(tiny.tiny_model(name).to(dtype), attention=attention), dtype=dtype)
    return assemble(loaded, RevisionSpec(revision="tiny", folder=Path("unused"), engine=config))


@dataclass
class Heard:
    """One request's events."""

    events: list[Event]

    @property
    def said(self) -> Said:
        deltas = [event for event in self.events if isinstance(event, Delta)]
        return [
            (token_id, logprob)
            for delta in deltas
            for token_id, logprob in zip(delta.token_ids, delta.logprobs, strict=True)
        ]

    @property
    def finish(self) -> Finish:
        assert isinstance(self.events[-1], Finish)
        return self.events[-1]


def submit(engine: Engine, name: str, prompt: list[int], sampling: Sampling, *, priority: int = 0) -> Heard:
    heard = Heard([])
    request = GenerateRequest(name, "tiny", tuple(prompt), Owner("o", "s"), sampling, priority=priority)
    engine.submit(request, heard.events.append)
    return heard


def run(engine: Engine) -> None:
    while engine.has_work:
        engine.step()
    engine.check_integrity()


def alone(engine: Engine, sampling: Sampling = GREEDY) -> Said:
    heard = submit(engine, "alone", PROMPT, sampling)
    run(engine)
    assert len(heard.said) == NUM_TOKENS
    return heard.said


def in_company(engine: Engine, num_others: int, sampling: Sampling = GREEDY, *, seed: int = 1) -> Heard:
    """The prompt among random others, some of which are under way when it arrives and some come later."""
    chance = random.Random(seed)
    heard = Heard([])
    place = chance.randrange(num_others + 1)
    for index in range(num_others + 1):
        if index == place:
            heard = submit(engine, "own", PROMPT, sampling)
        else:
            other = Sampling(
                temperature=chance.choice([0.0, 1.0]), max_tokens=chance.randrange(1, 16), ignore_eos=True
            )
            submit(engine, f"other-{index}", tiny.prompt(chance.randrange(1, 50), seed=index), other)
        for _ in range(chance.randrange(3)):
            engine.step()
    run(engine)
    return heard


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("llama", torch.bfloat16), ("qwen2-mixed", torch.float32), ("mistral", torch.bfloat16)],
)
def test_a_batch_changes_no_bit(name: str, dtype: torch.dtype) -> None:
    expected = alone(engine(name, dtype=dtype))
    for num_others in (1, 6, 31):
        assert in_company(engine(name, dtype=dtype), num_others).said == expected


@pytest.mark.parametrize("attention", ["cpu", "reference"])
@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_chunks_change_no_bit(attention: str, sampling: Sampling) -> None:
    expected = alone(engine(attention=attention, max_batch_tokens=400), sampling)
    for max_batch_tokens in (4, 7, 23, 64):
        chunked = engine(attention=attention, max_batch_tokens=max_batch_tokens)
        assert in_company(chunked, 6, sampling, seed=max_batch_tokens).said == expected


@pytest.mark.parametrize("length", [41, 44, 45])
def test_a_prefix_that_is_found_changes_no_bit(length: int) -> None:
    expected = alone(engine(prefix_caching=False))
    served = engine()
    submit(served, "before", [*PROMPT[:length], 7, 7, 7, 7, 7], GREEDY)
    run(served)
    heard = in_company(served, 3)
    assert heard.finish.usage.cached_tokens >= 40
    assert heard.said == expected


def test_what_was_output_is_not_taken_for_prompt() -> None:
    """A conversation goes on: its first answer was computed one by one, and is now part of the prompt."""
    served = engine()
    first = submit(served, "first", PROMPT[:20], GREEDY)
    run(served)
    follow_up = [*PROMPT[:20], *(token_id for token_id, _ in first.said), 5]
    second = submit(served, "second", follow_up, GREEDY)
    run(served)
    assert second.finish.usage.cached_tokens == 20
    fresh = engine()
    again = submit(fresh, "second", follow_up, GREEDY)
    run(fresh)
    assert second.said == again.said


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_a_preemption_changes_no_bit(name: str) -> None:
    expected = alone(engine(name))
    small = engine(name, num_blocks=26)
    heard = submit(small, "own", PROMPT, GREEDY)
    for index in range(2):
        prompt = tiny.prompt(20, seed=index)
        submit(small, f"before-{index}", prompt, replace(GREEDY, max_tokens=40), priority=1)
    run(small)
    assert heard.finish.timings.num_preemptions > 0, "the pool was to be too small"
    assert heard.said == expected


def test_without_the_mode_the_company_is_felt() -> None:
    """So the tests above can fail: torch's products of several rows round otherwise than those of one."""
    expected = [alone(engine(name, batch_invariant=False)) for name in ("llama", "qwen3")]
    found = [in_company(engine(name, batch_invariant=False), 6).said for name in ("llama", "qwen3")]
    assert found != expected


def test_a_step_too_small_for_a_chunk_is_refused() -> None:
    with pytest.raises(CannotLoad, match="max_batch_tokens is 3"):
        engine(max_batch_tokens=3)


def test_chunks_end_at_alignments_and_output_is_computed_again_token_by_token() -> None:
    bench = make_bench(num_blocks=8, max_batch_tokens=11, chunk_policy=ChunkAlignment(8))
    long = bench.submit("long", range(1, 18), sampling=Sampling(max_tokens=10, ignore_eos=True))
    short = bench.submit("short", [1, 2, 3], sampling=Sampling(max_tokens=16, ignore_eos=True), priority=1)
    bench.run()
    assert long.token_ids == oracle(range(1, 18), max_tokens=10)
    assert short.token_ids == oracle([1, 2, 3], max_tokens=16)
    assert long.finish.timings.num_preemptions > 0, "the pool was to be too small"
    for step in bench.runner.steps:
        columns = list(zip(step.starts, step.ends, step.num_prompt_tokens, strict=True))
        kinds = [start >= num_prompt_tokens for start, _, num_prompt_tokens in columns]
        assert kinds == sorted(kinds, reverse=True), "prefill stood before decode"
        for start, end, num_prompt_tokens in columns:
            if start < num_prompt_tokens:
                assert start % 8 == 0 and (end % 8 == 0 or end == num_prompt_tokens)
            else:
                assert end == start + 1


def test_blocks_are_found_up_to_an_aligned_end_of_the_prompt() -> None:
    bench = make_bench(max_batch_tokens=32, chunk_policy=ChunkAlignment(8), num_blocks=32)
    bench.submit("first", range(20), sampling=Sampling(max_tokens=12, ignore_eos=True))
    bench.run()
    for length, found in ((20, 16), (17, 16), (16, 8), (32, 16)):
        stream = bench.submit(f"r{length}", range(length), sampling=Sampling(max_tokens=1))
        bench.run()
        assert stream.finish.usage.cached_tokens == found


def test_a_row_is_cut_at_every_multiple() -> None:
    assert ChunkAlignment(8).cut(5, 20) == [(5, 3), (8, 8), (16, 8), (24, 1)]
    assert ChunkAlignment(8).cut(8, 8) == [(8, 8)]


def test_a_piece_is_a_step_of_its_own() -> None:
    decoding, prompt = tiny.sequence([1, 2], [3], seed=4), tiny.sequence(range(40), seed=5)
    chunks = (ScheduledChunk(decoding, 2, 1), ScheduledChunk(prompt, 20, 20))
    step = StepPlan(chunks).input
    first, last = step.piece(1, 20, 4), step.piece(1, 24, 16)
    assert first.token_ids.tolist() == [20, 21, 22, 23] and last.token_ids.tolist() == list(range(24, 40))
    assert (first.samples, first.sampling.seeds) == ((False,), ())
    assert (last.samples, last.sampling.seeds, last.sampling.positions) == ((True,), (5,), (0,))
    assert step.piece(0, 2, 1).sampling.seeds == (4,)


def test_a_chunk_wider_than_a_mixed_step_wants_is_computed_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bench = make_bench(num_blocks=400, max_batch_tokens=700, max_num_seqs=8, chunk_policy=ChunkAlignment(600))
    for name in ("a", "b", "c"):
        bench.submit(name, [1, 2], sampling=Sampling(max_tokens=60, ignore_eos=True))
    for _ in range(3):
        bench.engine.step()
    monkeypatch.setattr(PrefillBudget, "budget", lambda *_, **__: StepBudget(256, is_shared=True))
    late = bench.submit("late", range(1, 60), sampling=Sampling(max_tokens=2, ignore_eos=True))
    for _ in range(5):
        bench.engine.step()
    assert len(late.token_ids) == 2
