"""Draft tokens computed ahead: the same output in fewer steps, and nothing lost to wrong ones."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from inference.benchmark.repeating import make_repeating
from inference.checkpoints.model_folder import CannotLoad
from inference.config import EngineConfig, RevisionSpec
from inference.execution.build import assemble
from inference.execution.sequential.engine import SequentialEngine
from inference.protocol.events import Delta, Event, Finish, FinishReason
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from inference.scheduling.interfaces import Sampled
from inference.scheduling.speculation import MAX_SEQUENCES, ROW_COSTS, Speculation
from inference.scheduling.step_executor import DeviceLost
from inference.scheduling.step_input import SamplingInput, StepInput
from inference.scheduling.step_plan import ScheduledChunk
from tests.inference import tiny
from tests.inference.scheduling.fake_model import (
    Bench,
    OutOfMemoryError,
    make_bench,
    next_token,
    oracle,
    repeating,
)

PROMPT = [5, 6, 7, 5, 6, 7]


def counting(token_ids: list[int]) -> int:
    """A model that counts to 9 over and over: every draft is right, once it has been at 9."""
    return 1 + token_ids[-1] % 9


def wordy(token_ids: list[int]) -> int:
    """A model that seldom says what it said before, in a language of few words."""
    return next_token(token_ids) % 30


def bench_of(says: Any = counting, **config: Any) -> Bench:
    return make_bench(
        says=says, **{"num_draft_tokens": 4, "num_blocks": 64, "max_batch_tokens": 64, **config}
    )


def lasting(max_tokens: int, **sampling: Any) -> Sampling:
    return Sampling(max_tokens=max_tokens, ignore_eos=True, **sampling)


class Counted:
    """Counts the tokens that are sampled, as the steps stand when they run."""

    def __init__(self) -> None:
        self.num_sampled = 0

    def __call__(self, step: StepInput) -> None:
        self.num_sampled += sum(step.samples)


def num_drafts(step: StepInput) -> int:
    """Each sequence has one chunk, and one more for each draft."""
    return step.num_chunks - len(set(step.table_ids))


@pytest.mark.parametrize("overlaps", [False, True])
@pytest.mark.parametrize("says", [counting, repeating, wordy, next_token])
def test_the_output_is_the_same_in_no_more_steps(says: Any, overlaps: bool) -> None:
    outputs, num_steps = [], []
    for num_draft_tokens in (0, 4):
        bench = bench_of(says, overlaps=overlaps, num_draft_tokens=num_draft_tokens)
        streams = [bench.submit(f"r{n}", [*PROMPT, n], sampling=lasting(50)) for n in range(3)]
        bench.run()
        outputs.append([stream.token_ids for stream in streams])
        num_steps.append(len(bench.runner.steps))
    assert outputs[0] == outputs[1] == [oracle([*PROMPT, n], max_tokens=50, says=says) for n in range(3)]
    assert num_steps[1] <= num_steps[0]
    if says is counting:
        assert num_steps[1] < num_steps[0] / 2


@pytest.mark.parametrize("overlaps", [False, True])
def test_what_was_drafted_and_what_was_right_is_told(overlaps: bool) -> None:
    bench = bench_of(overlaps=overlaps)
    bench.submit("r", [1, 2, 3, 4, 5, 6, 7, 8, 9] * 2, sampling=lasting(40))
    bench.run()
    stats = bench.engine.stats()
    assert stats.num_drafted_tokens == sum(num_drafts(step) for step in bench.runner.steps) > 20
    assert stats.num_accepted_tokens == stats.num_drafted_tokens
    assert stats.num_generated_tokens == 40
    bench = bench_of(repeating, overlaps=overlaps)
    bench.submit("r", PROMPT, sampling=lasting(40))
    bench.run()
    stats = bench.engine.stats()
    assert 0 < stats.num_accepted_tokens < stats.num_drafted_tokens


@pytest.mark.parametrize("max_tokens", range(1, 9))
def test_no_more_is_computed_than_may_be_said(max_tokens: int) -> None:
    counted = Counted()
    bench = bench_of(faults=counted)
    stream = bench.submit("r", [1, 2, 3, 4, 5, 6, 7, 8, 9] * 2, sampling=lasting(max_tokens))
    bench.run()
    assert len(stream.token_ids) == max_tokens == stream.finish.usage.completion_tokens
    assert stream.finish.reason is FinishReason.LENGTH
    assert counted.num_sampled == max_tokens


@pytest.mark.parametrize("overlaps", [False, True])
def test_generation_stops_exactly_at_the_grant_and_goes_on_where_it_stopped(overlaps: bool) -> None:
    counted = Counted()
    bench = bench_of(overlaps=overlaps, faults=counted)
    stream = bench.submit("r", [1, 2, 3, 4, 5, 6, 7, 8, 9] * 2, sampling=lasting(40), granted_tokens=7)
    bench.run()
    assert len(stream.token_ids) == 7 == counted.num_sampled
    bench.engine.grant("r", granted_tokens=12, is_final=False)
    bench.run()
    bench.engine.grant("r", granted_tokens=19, is_final=True)
    bench.run()
    assert len(stream.token_ids) == 19
    assert stream.finish.reason is FinishReason.BUDGET
    assert stream.finish.usage.completion_tokens == 19


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(max_tokens=40, stop_token_ids=(3,), min_tokens=25, ignore_eos=True),
        lasting(40, stop=("8>",), min_tokens=25),
        lasting(40, stop=("<4>",)),
        lasting(40, stop_token_ids=(6,)),
    ],
)
def test_an_end_amid_right_drafts_is_the_end(sampling: Sampling) -> None:
    ends = []
    for num_draft_tokens in (0, 4):
        bench = bench_of(num_draft_tokens=num_draft_tokens)
        prompt = [1, 2, 3, 4, 5, 6, 7, 8, 9] * 2 + [1, 2, 3, 4, 5, 6]
        stream = bench.submit("r", prompt, sampling=sampling)
        bench.run()
        finish = stream.finish
        assert bench.engine.stats().num_blocks_used == 0
        ends.append((stream.token_ids, stream.text, finish.reason, finish.matched_stop, finish.usage))
    assert ends[0] == ends[1]
    assert ends[0][2] is FinishReason.STOP


def test_who_is_aborted_keeps_what_it_was_sent() -> None:
    bench = bench_of()
    stream = bench.submit("r", [1, 2, 3] * 5, sampling=lasting(40))
    while not any(num_drafts(step) for step in bench.runner.steps):
        bench.engine.step()
    bench.engine.abort("r")
    assert stream.finish.usage.completion_tokens == len(stream.token_ids) > len(bench.runner.steps)
    assert not bench.engine.step() and bench.engine.stats().num_blocks_used == 0


def test_a_step_that_raises_is_run_without_drafts_and_then_by_halves() -> None:
    def faults(step: StepInput) -> None:
        if num_drafts(step):
            raise OutOfMemoryError("too much at once")
        starts = zip(step.request_ids, step.starts, strict=True)
        if any(name == "poison" and start > 20 for name, start in starts):
            raise ValueError("poison")

    bench = bench_of(faults=faults)
    names = ("one", "poison", "another")
    streams = {name: bench.submit(name, [1, 2, 3] * 6, sampling=lasting(30)) for name in names}
    bench.run()
    assert streams["poison"].finish.reason is FinishReason.FAILED
    for name in ("one", "another"):
        assert streams[name].token_ids == oracle([1, 2, 3] * 6, max_tokens=30, says=counting)
    assert bench.engine.stats().num_drafted_tokens == 0


def test_a_lost_device_is_lost_with_drafts_too() -> None:
    def faults(step: StepInput) -> None:
        if num_drafts(step):
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    bench = bench_of(faults=faults)
    bench.submit("r", [1, 2, 3] * 6, sampling=lasting(30))
    with pytest.raises(DeviceLost):
        bench.run()


def test_a_draft_without_finite_scores_costs_a_recomputation_and_no_token() -> None:
    bench = bench_of(repeating)
    sample = bench.sampler.sample

    def spoiling(logits: Any, sampling: SamplingInput) -> list[Sampled]:
        found = sample(logits, sampling)
        return [*found[:-1], Sampled(None)] if num_drafts(bench.runner.steps[-1]) else found

    bench.sampler.sample = spoiling  # type: ignore[method-assign]
    stream = bench.submit("r", PROMPT, sampling=lasting(30))
    bench.run()
    assert stream.token_ids == oracle(PROMPT, max_tokens=30, says=repeating)
    assert stream.finish.timings.num_preemptions == 1
    assert bench.runner.zeroed
    assert sum(num_drafts(step) > 0 for step in bench.runner.steps) == 1
    assert "preempted" in [span.name for span in stream.finish.timings.spans]


def test_no_one_is_preempted_for_a_draft() -> None:
    for num_draft_tokens in (0, 4):
        bench = bench_of(num_draft_tokens=num_draft_tokens, num_blocks=15)
        streams = [bench.submit(f"r{n}", [1, 2, 3, 4] * 3, sampling=lasting(8)) for n in range(3)]
        bench.run()
        assert bench.engine.stats().num_preemptions == 0
        assert all(len(stream.token_ids) == 8 for stream in streams)


def test_the_last_free_block_is_left_to_tokens_that_are_certain() -> None:
    bench = bench_of(num_blocks=7)
    bench.submit("r", [1, 2, 3, 4, 5, 6, 7, 8, 9] * 2 + [1, 2], sampling=lasting(8))
    bench.run()
    drafted = [step for step in bench.runner.steps if num_drafts(step)]
    assert drafted
    for step in drafted:
        assert len({start // 4 for start in step.starts}) == 1, "a draft took a block of its own"


def test_what_looks_at_the_tokens_before_is_not_drafted() -> None:
    bench = bench_of()
    stream = bench.submit("r", [1, 2, 3] * 6, sampling=lasting(30, presence_penalty=0.5))
    bench.run()
    assert len(stream.token_ids) == 30
    assert bench.engine.stats().num_drafted_tokens == 0


def test_steps_overlap_wherever_nothing_is_drafted() -> None:
    num_launched = []
    for num_draft_tokens in (0, 4):
        bench = bench_of(next_token, overlaps=True, num_draft_tokens=num_draft_tokens)
        bench.submit("r", [1, 2, 3, 4, 5], sampling=lasting(40))
        bench.run()
        num_launched.append(bench.engine.step_runner.launcher.num_launched)  # type: ignore[attr-defined]
    assert num_launched[1] >= 0.9 * num_launched[0]


# The policy alone


def decoding(num_rows: int, token_ids: list[int]) -> list[ScheduledChunk]:
    chunks = []
    for _ in range(num_rows):
        sequence = tiny.sequence(token_ids[:2], token_ids[2:])
        chunks.append(ScheduledChunk(sequence, len(token_ids) - 1, 1))
    return chunks


def test_the_fuller_the_device_the_surer_a_draft_must_be() -> None:
    speculation = Speculation(num_draft_tokens=4, row_cost=ROW_COSTS["cpu"])
    needed = [speculation.least_chance(num_rows) for num_rows in (1, 4, 8, 32)]
    assert needed == sorted(needed) and needed[0] == pytest.approx(0.3) and 0.45 < needed[2] < needed[3] < 1
    cheap = Speculation(num_draft_tokens=4, row_cost=ROW_COSTS["cuda"])
    assert cheap.least_chance(16) == pytest.approx(0.3)


def test_a_large_batch_drafts_nothing() -> None:
    said = [1, 2, 3, 4, 5, 6, 7, 8] * 8
    speculation = Speculation(num_draft_tokens=4, row_cost=0.0)
    assert len(speculation.propose(decoding(MAX_SEQUENCES, said)).drafts) == MAX_SEQUENCES
    assert not speculation.propose(decoding(MAX_SEQUENCES + 1, said)).drafts


def test_one_that_repeats_itself_among_many_that_do_not_is_not_worth_a_step() -> None:
    speculation = Speculation(num_draft_tokens=1, row_cost=0.0)
    repeats, new = [1, 2, 3, 4, 5, 6, 7, 8] * 8, list(range(100, 164))
    assert speculation.propose(decoding(1, repeats) + decoding(4, new)).drafts
    assert not speculation.propose(decoding(1, repeats) + decoding(20, new)).drafts


def test_drafts_wait_for_tokens_under_way() -> None:
    speculation = Speculation(num_draft_tokens=4, row_cost=0.0)
    [chunk] = decoding(1, [1, 2, 3, 4, 5, 6, 7, 8] * 8)
    chunk.sequence.add_pending()
    proposal = speculation.propose([ScheduledChunk(chunk.sequence, chunk.start + 1, 1)])
    assert proposal.waits and not proposal.drafts


@pytest.mark.parametrize("num_words", [10, 1000, 50_000])
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_on_random_text_drafts_cost_a_few_percent_at_most(device: str, num_words: int) -> None:
    """In steps of the policy's own cost, without a clock."""
    source = random.Random(1)
    said = [source.randrange(num_words) for _ in range(1000)]
    cost = ROW_COSTS[device]
    speculation = Speculation(num_draft_tokens=4, row_cost=cost)
    sequence = tiny.sequence(said[:200])
    spent = 0.0
    while len(sequence.token_ids) < 995:
        sequence.add_token(said[len(sequence.token_ids)])
        proposal = speculation.propose([ScheduledChunk(sequence, len(sequence.token_ids) - 1, 1)])
        drafts = proposal.drafts.get(sequence, [])
        spent += 1 + cost * len(drafts)
        for draft in drafts:
            if said[len(sequence.token_ids)] != draft:
                break
            sequence.add_token(draft)
    assert spent < 1.03 * (995 - 200)


# Real models


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


SAMPLINGS = {
    "greedy": Sampling(temperature=0.0, max_tokens=150, ignore_eos=True),
    "seeded": Sampling(temperature=0.3, seed=7, max_tokens=150, ignore_eos=True),
    "top_p": Sampling(temperature=0.6, top_p=0.5, seed=8, max_tokens=150, ignore_eos=True),
    "top_k and log-probabilities": Sampling(
        temperature=0.5, top_k=2, seed=9, max_tokens=150, ignore_eos=True, logprobs=2
    ),
    "penalties": Sampling(temperature=0.0, frequency_penalty=0.2, max_tokens=40, ignore_eos=True),
    "min_tokens": Sampling(temperature=0.0, min_tokens=20, max_tokens=150, stop_token_ids=(1, 2, 3)),
}


def outputs_of(name: str, attention: str, num_draft_tokens: int) -> tuple[dict[str, Any], int, int]:
    """Each sampling's tokens, log-probabilities and end, in one batch; steps and right drafts."""
    config = EngineConfig(
        block_size=4, num_blocks=400, max_batch_tokens=40, num_draft_tokens=num_draft_tokens
    )
    model = tiny.tiny_model(name)
    make_repeating(model, embedding_std=4.0, passage=range(100, 120))
    engine = assemble(tiny.loaded(model, attention=attention), RevisionSpec("tiny", Path("unused"), config))
    events: dict[str, list[Event]] = {label: [] for label in SAMPLINGS}
    prompt = (*tiny.prompt(7), *range(100, 120))
    for label, sampling in SAMPLINGS.items():
        engine.submit(GenerateRequest(label, "tiny", prompt, Owner("o", "s"), sampling), events[label].append)
    while engine.has_work:
        engine.step()
    engine.check_integrity()
    found = {}
    for label, seen in events.items():
        deltas = [event for event in seen if isinstance(event, Delta)]
        logprobs = [one.logprob for delta in deltas for one in delta.logprobs]
        [finish] = [event for event in seen if isinstance(event, Finish)]
        tokens = [token_id for delta in deltas for token_id in delta.token_ids]
        found[label] = (tokens, finish.reason, finish.usage.completion_tokens, logprobs)
    stats = engine.stats()
    return found, stats.num_steps, stats.num_accepted_tokens


@pytest.mark.parametrize("attention", ["reference", "cpu"])
@pytest.mark.parametrize("name", ["llama", "qwen3", "gemma2"])
@pytest.mark.usefixtures("one_thread")
def test_a_real_models_outputs_are_the_same_token_for_token(name: str, attention: str) -> None:
    plain, num_plain_steps, _ = outputs_of(name, attention, 0)
    drafted, num_steps, num_accepted = outputs_of(name, attention, 4)
    for label, (*told, logprobs) in plain.items():
        assert drafted[label][:-1] == tuple(told)
        assert drafted[label][-1] == pytest.approx(logprobs, abs=1e-3)
    assert num_accepted > 20
    assert num_steps < num_plain_steps


def test_where_drafts_cannot_be_computed_together_they_are_refused() -> None:
    loaded = tiny.loaded(tiny.tiny_model("llama"))
    invariant = EngineConfig(num_blocks=64, num_draft_tokens=2, batch_invariant=True)
    with pytest.raises(CannotLoad, match="num_draft_tokens"):
        assemble(loaded, RevisionSpec("tiny", Path("unused"), invariant))
    with pytest.raises(CannotLoad, match="num_draft_tokens"):
        SequentialEngine(loaded, RevisionSpec("tiny", Path("unused"), EngineConfig(num_draft_tokens=2)))
    with pytest.raises(ValueError, match="num_draft_tokens"):
        EngineConfig(num_draft_tokens=17)
