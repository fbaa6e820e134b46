"""Steps that are launched before the last one's tokens are read: the same output, and what they cost."""

from __future__ import annotations

from inference.protocol.events import Finish, FinishReason
from inference.protocol.requests import Sampling
from inference.scheduling.sequence import PENDING
from inference.scheduling.step_input import StepInput
from tests.inference.scheduling.fake_model import EOS, Bench, make_bench, oracle

PROMPT = [5, 6, 7, 8, 9]


def prompt_that_ends_early(*, after: int) -> list[int]:
    """A prompt after which the model says its end-of-sequence token as output number `after`."""
    for start in range(10_000):
        output = oracle([start, 1, 2], max_tokens=after, ignore_eos=False)
        if len(output) == after and output[-1] == EOS:
            return [start, 1, 2]
    raise AssertionError("no such prompt")


def overlapped(**options: object) -> Bench:
    return make_bench(overlaps=True, **options)  # type: ignore[arg-type]


def test_the_next_step_is_launched_before_a_token_is_read() -> None:
    bench = overlapped()
    stream = bench.submit("r", PROMPT)
    bench.engine.step()
    assert stream.token_ids == [] and len(bench.runner.steps) == 1
    bench.engine.step()
    assert len(stream.token_ids) == 1 and len(bench.runner.steps) == 2
    assert bench.engine.requests["r"].sequence.token_ids[-1] == PENDING
    bench.run()
    assert stream.token_ids == oracle(PROMPT, max_tokens=4)


def test_a_known_end_costs_no_step_too_many() -> None:
    bench = overlapped()
    bench.submit("r", PROMPT)
    bench.run()
    assert len(bench.runner.steps) == 4


def test_an_end_that_is_seen_late_costs_one_step_and_no_token() -> None:
    bench = overlapped()
    prompt = prompt_that_ends_early(after=3)
    stream = bench.submit("r", prompt, sampling=Sampling(max_tokens=20))
    bench.run()
    assert stream.token_ids == oracle(prompt, max_tokens=20, ignore_eos=False)
    assert stream.finish.reason is FinishReason.STOP
    assert stream.finish.usage.completion_tokens == 3
    assert len(bench.runner.steps) == 4
    assert bench.engine.stats().num_blocks_used == 0


def test_generation_stops_exactly_at_the_grant_and_goes_on_where_it_stopped() -> None:
    bench = overlapped()
    stream = bench.submit("r", PROMPT, sampling=Sampling(max_tokens=9, ignore_eos=True), granted_tokens=3)
    bench.run()
    assert len(stream.token_ids) == 3
    assert not bench.engine.stats().has_work
    bench.engine.grant("r", granted_tokens=5, is_final=True)
    bench.run()
    assert stream.token_ids == oracle(PROMPT, max_tokens=5)
    assert stream.finish.reason is FinishReason.BUDGET


def test_a_request_that_is_aborted_under_way_keeps_what_it_was_sent() -> None:
    bench = overlapped()
    stream = bench.submit("r", PROMPT, sampling=Sampling(max_tokens=9, ignore_eos=True))
    for _ in range(3):
        bench.engine.step()
    bench.engine.abort("r")
    assert stream.finish.usage.completion_tokens == len(stream.token_ids) == 2
    bench.run()
    assert isinstance(stream.events[-1], Finish)
    assert bench.engine.stats().num_blocks_used == 0


def test_rows_that_look_back_are_run_with_known_tokens() -> None:
    bench = overlapped()
    plain = bench.submit("plain", PROMPT, sampling=Sampling(max_tokens=6, ignore_eos=True))
    told = bench.submit("told", [1, 2], sampling=Sampling(max_tokens=3, ignore_eos=True, logprobs=1))
    bench.run()
    assert plain.token_ids == oracle(PROMPT, max_tokens=6)
    assert told.token_ids == oracle([1, 2], max_tokens=3)


def test_what_raises_at_launch_fails_alone() -> None:
    def faults(step: StepInput) -> None:
        starts = zip(step.request_ids, step.starts, strict=True)
        if any(name == "poison" and start for name, start in starts):
            raise ValueError("poison")

    bench = overlapped(faults=faults)
    streams = {name: bench.submit(name, [*PROMPT, len(name)]) for name in ("one", "poison", "another")}
    bench.run()
    assert streams["poison"].finish.reason is FinishReason.FAILED
    for name in ("one", "another"):
        assert streams[name].token_ids == oracle([*PROMPT, len(name)], max_tokens=4)


def test_who_waits_for_a_prefix_goes_on_when_its_leader_is_aborted_under_way() -> None:
    bench = overlapped(num_blocks=4, max_batch_tokens=5, max_num_seqs=1)
    bench.submit("leader", [7] * 9, sampling=Sampling(max_tokens=1))
    follower = bench.submit("follower", [7] * 9, sampling=Sampling(max_tokens=1))
    bench.engine.step()
    bench.engine.abort("leader")
    bench.run()
    assert follower.token_ids == oracle([7] * 9, max_tokens=1)
