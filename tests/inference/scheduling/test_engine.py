"""How a request ends, and that it ends once: stops, grants, deadlines, aborts, faults of single rows."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from inference.protocol.events import EngineError, Finish, FinishReason, TokenLogprob
from inference.protocol.requests import Deadlines, Sampling
from inference.scheduling.step_executor import DeviceLost
from inference.scheduling.step_input import StepInput
from tests.inference.scheduling.fake_model import (
    EOS,
    Bench,
    FakeDetokenizer,
    OutOfMemoryError,
    make_bench,
    next_token,
    oracle,
)


def prompt_that_ends(*, after: int) -> list[int]:
    """A prompt whose output reaches the end-of-sequence token as its token number `after`."""
    for number in range(100_000):
        prompt = [number % 100, number // 100 % 100, number // 10_000]
        output = oracle(prompt, max_tokens=after)
        if output[-1] == EOS and EOS not in output[:-1]:
            return prompt
    raise AssertionError("there is none")


def test_the_end_of_sequence_token_ends_a_request_without_text() -> None:
    bench = make_bench()
    stream = bench.submit("r", prompt_that_ends(after=3), sampling=Sampling(max_tokens=9))
    bench.run()
    assert len(stream.token_ids) == 3 and stream.token_ids[-1] == EOS
    assert "<0>" not in stream.text and stream.text.count("<") == 2
    finish = stream.finish
    assert (finish.reason, finish.matched_stop) == (FinishReason.STOP, None)
    assert finish.usage.completion_tokens == 3


def test_ignore_eos_goes_on_with_its_text() -> None:
    bench = make_bench()
    sampling = Sampling(max_tokens=5, ignore_eos=True)
    stream = bench.submit("r", prompt_that_ends(after=3), sampling=sampling)
    bench.run()
    assert len(stream.token_ids) == 5 and "<0>" in stream.text


@pytest.mark.parametrize("is_included", [False, True])
def test_a_stop_token_ends_a_request(is_included: bool) -> None:
    bench = make_bench()
    output = oracle([1, 2], max_tokens=4)
    sampling = Sampling(
        max_tokens=9,
        ignore_eos=True,
        stop_token_ids=(output[2],),
        include_stop_str_in_output=is_included,
    )
    stream = bench.submit("r", [1, 2], sampling=sampling)
    bench.run()
    assert stream.token_ids == output[:3]
    assert stream.text == "".join(f"<{token_id}>" for token_id in output[: 3 if is_included else 2])
    assert (stream.finish.reason, stream.finish.matched_stop) == (FinishReason.STOP, output[2])


def test_stops_do_not_count_before_min_tokens() -> None:
    output = oracle([1, 2], max_tokens=6)
    for min_tokens, length in ((2, 3), (3, 6)):
        bench = make_bench()
        sampling = Sampling(max_tokens=6, min_tokens=min_tokens, ignore_eos=True, stop_token_ids=(output[2],))
        stream = bench.submit("r", [1, 2], sampling=sampling)
        bench.run()
        assert len(stream.token_ids) == length


def test_a_stop_string_ends_a_request() -> None:
    bench = make_bench()
    output = oracle([1, 2], max_tokens=4)
    stop = f"{output[2]}>"
    stream = bench.submit("r", [1, 2], sampling=Sampling(max_tokens=9, ignore_eos=True, stop=(stop,)))
    bench.run()
    assert stream.token_ids == output[:3]
    assert stream.text == f"<{output[0]}><{output[1]}><"
    assert (stream.finish.reason, stream.finish.matched_stop) == (FinishReason.STOP, stop)


SECRET = "what the prompt says"


class HoldingDetokenizer(FakeDetokenizer):
    """Holds everything back until the end."""

    def push(self, token_ids: list[int]) -> str:
        self.held += "".join(f"<{token_id}>" for token_id in token_ids)
        return ""


@pytest.mark.parametrize("end", ["length", "eos", "abort", "budget"])
def test_text_that_was_held_back_is_sent_at_the_end(end: str) -> None:
    bench = make_bench(detokenizer_factory=HoldingDetokenizer)
    sampling = Sampling(max_tokens=3) if end == "eos" else Sampling(max_tokens=3, ignore_eos=True)
    prompt = prompt_that_ends(after=3) if end == "eos" else [1, 2]
    stream = bench.submit("r", prompt, sampling=sampling, granted_tokens=2 if end == "budget" else None)
    bench.engine.step()
    bench.engine.step()
    if end == "abort":
        bench.engine.abort("r")
    elif end == "budget":
        bench.engine.grant("r", granted_tokens=2, is_final=True)
    bench.run()
    num_with_text = 3 if end == "length" else 2
    assert stream.text == "".join(f"<{token_id}>" for token_id in stream.token_ids[:num_with_text])
    assert stream.finish.usage.completion_tokens == len(stream.token_ids)


def test_without_max_tokens_the_context_is_the_limit() -> None:
    bench = make_bench(num_blocks=32)
    stream = bench.submit("r", range(60), sampling=Sampling(ignore_eos=True))
    bench.run()
    assert len(stream.token_ids) == 4
    assert stream.finish.reason is FinishReason.LENGTH


def test_log_probabilities_travel_with_their_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make_bench()
    sample = bench.sampler.sample

    def with_logprobs(logits: Any, sequences: Any) -> Any:
        return [
            type(one)(one.token_id, TokenLogprob(one.token_id or 0, "", b"", -1.0))
            for one in sample(logits, sequences)
        ]

    monkeypatch.setattr(bench.sampler, "sample", with_logprobs)
    stream = bench.submit("r", [1, 2])
    bench.run()
    logprobs = [entry.token_id for event in stream.events[:-1] for entry in event.logprobs]  # type: ignore[union-attr]
    assert logprobs == stream.token_ids


def test_the_seed_is_the_requests_own_or_drawn() -> None:
    bench = make_bench()
    bench.engine.draw_seed = iter([11, 22]).__next__
    for name, seed in (("a", None), ("b", 5), ("c", None)):
        bench.submit(name, [1], sampling=Sampling(seed=seed))
    assert [state.sequence.seed for state in bench.engine.requests.values()] == [11, 5, 22]


def test_at_its_grant_a_request_waits_and_keeps_its_blocks() -> None:
    bench = make_bench()
    stream = bench.submit("r", [1, 2], granted_tokens=2)
    bench.run()
    assert len(stream.token_ids) == 2
    stats = bench.engine.stats()
    assert (stats.num_running, stats.num_blocks_used, stats.has_work) == (1, 1, False)
    assert bench.engine.has_work
    bench.engine.grant("r", granted_tokens=3, is_final=False)
    assert bench.engine.stats().has_work
    bench.run()
    assert len(stream.token_ids) == 3
    bench.engine.grant("r", granted_tokens=10, is_final=True)
    bench.run()
    assert stream.token_ids == oracle([1, 2], max_tokens=4)
    assert stream.finish.reason is FinishReason.LENGTH
    assert stream.finish.timings.num_preemptions == 0


def test_a_final_grant_ends_the_request_where_it_is_used_up() -> None:
    bench = make_bench()
    stream = bench.submit("r", [1, 2], granted_tokens=1)
    bench.engine.grant("r", granted_tokens=3, is_final=True)
    bench.run()
    assert len(stream.token_ids) == 3
    assert stream.finish.reason is FinishReason.BUDGET
    assert bench.engine.pool.num_used == 0


def test_a_request_without_a_grant_cannot_be_given_one() -> None:
    bench = make_bench()
    stream = bench.submit("r", [1, 2])
    bench.engine.grant("r", granted_tokens=1, is_final=True)
    bench.run()
    assert stream.finish.reason is FinishReason.LENGTH


def test_a_grant_never_shrinks() -> None:
    bench = make_bench()
    stream = bench.submit("r", [1, 2], granted_tokens=3)
    bench.engine.grant("r", granted_tokens=1, is_final=False)
    bench.run()
    assert len(stream.token_ids) == 3


@pytest.mark.parametrize("num_steps", range(6))
def test_an_abort_in_any_phase_finishes_once_and_frees(num_steps: int) -> None:
    bench = make_bench(max_batch_tokens=4)
    stream = bench.submit("r", range(10), sampling=Sampling(max_tokens=9, ignore_eos=True))
    for _ in range(num_steps):
        bench.engine.step()
    bench.engine.abort("r")
    bench.engine.abort("r")
    assert stream.finish.reason is FinishReason.CANCELLED
    assert stream.finish.usage.completion_tokens == len(stream.token_ids)
    assert bench.engine.pool.num_used == 0 and not bench.engine.has_work
    assert bench.run() == 0


def test_abort_owner_ends_that_owners_requests() -> None:
    bench = make_bench()
    mine = [bench.submit(f"mine {i}", [i], owner="mine") for i in range(3)]
    other = bench.submit("other", [9], owner="other")
    bench.engine.step()
    bench.engine.abort_owner("mine")
    bench.run()
    assert {stream.finish.reason for stream in mine} == {FinishReason.CANCELLED}
    assert other.finish.reason is FinishReason.LENGTH


def test_fail_all_finishes_everything_with_the_error() -> None:
    bench = make_bench(max_num_seqs=1)
    streams = [bench.submit(f"r{i}", [i]) for i in range(3)]
    bench.engine.step()
    error = EngineError("engine_error", "gone", is_retryable=True)
    bench.engine.fail_all(error)
    assert [stream.finish.error for stream in streams] == [error] * 3


@pytest.mark.parametrize(
    ("code", "limits", "before"),
    [
        ("queue_timeout", {"queue_seconds": 5.0}, 0),
        ("first_token_timeout", {"first_token_seconds": 5.0}, 1),
        ("token_timeout", {"between_tokens_seconds": 5.0}, 4),
        ("request_timeout", {"total_seconds": 5.0}, 4),
    ],
)
def test_each_deadline_ends_a_request_with_its_own_code(
    code: str, limits: dict[str, float], before: int
) -> None:
    unlimited = Deadlines(None, None, None, None)
    deadlines = Deadlines(**{name: limits.get(name) for name in Deadlines.__slots__})  # type: ignore[attr-defined]
    bench = make_bench(max_num_seqs=1, max_batch_tokens=4)
    if code == "queue_timeout":
        bench.submit("first", [1], deadlines=unlimited, sampling=Sampling(max_tokens=60, ignore_eos=True))
        bench.engine.step()
    sampling = Sampling(max_tokens=40, ignore_eos=True)
    stream = bench.submit("r", range(10), deadlines=deadlines, sampling=sampling)
    for _ in range(before):
        bench.engine.step()
    bench.clock.now += 4.9
    bench.engine.step()
    assert "r" in bench.engine.requests
    deadline = bench.engine.next_deadline()
    assert deadline is not None and deadline <= bench.clock.now + 5.0
    bench.clock.now += 0.2 if code != "token_timeout" else 5.1
    bench.engine.step()
    error = stream.finish.error
    assert stream.finish.reason is FinishReason.FAILED
    assert error is not None and error.code == code
    assert error.is_retryable == (code == "queue_timeout")


def test_time_at_the_grant_counts_for_the_total_alone() -> None:
    bench = make_bench()
    stream = bench.submit("r", [1, 2], granted_tokens=1, deadlines=Deadlines(5.0, 5.0, 5.0, 100.0))
    late = bench.submit("late", [1, 2, 3], granted_tokens=0, deadlines=Deadlines(5.0, 5.0, 5.0, 100.0))
    bench.run()
    bench.clock.now += 50
    bench.run()
    for name in ("r", "late"):
        bench.engine.grant(name, granted_tokens=2, is_final=False)
    bench.clock.now += 4
    bench.run()
    assert len(stream.token_ids) == len(late.token_ids) == 2
    bench.clock.now += 60
    bench.run()
    for finish in (stream.finish, late.finish):
        assert finish.error is not None and finish.error.code == "request_timeout"


def test_no_deadline_means_no_wakeup() -> None:
    bench = make_bench()
    bench.submit("r", [1], granted_tokens=1, deadlines=Deadlines(None, None, None, None))
    bench.run()
    assert bench.engine.next_deadline() is None


def test_timings_tell_the_whole_life_of_a_request() -> None:
    bench = make_bench(max_batch_tokens=4)
    start = bench.clock.now
    stream = bench.submit("r", range(6), sampling=Sampling(max_tokens=5, ignore_eos=True), granted_tokens=3)
    run = bench.runner.run

    def slow(step: StepInput) -> Any:
        bench.clock.now += 1
        return run(step)

    bench.runner.run = slow  # type: ignore[method-assign]
    bench.clock.now += 10
    bench.run()
    bench.clock.now += 100
    bench.engine.grant("r", granted_tokens=9, is_final=False)
    bench.run()
    timings = stream.finish.timings
    assert timings.queue_seconds == 10
    assert timings.first_token_seconds == 12
    assert timings.inter_token_seconds == (1, 1, 101, 1)
    assert timings.total_seconds == bench.clock.now - start == 116
    spans = [(span.name, span.start, span.end) for span in timings.spans]
    assert spans == [
        ("queue", 0, 10),
        ("prefill", 10, 12),
        ("decode", 12, 14),
        ("allowance", 14, 114),
        ("decode", 114, 116),
    ]
    assert timings.spans[1].attributes == {"cached_tokens": 0}


def test_the_spans_of_a_preempted_request_say_so() -> None:
    bench = make_bench(num_blocks=5, max_batch_tokens=64)
    sampling = Sampling(max_tokens=14, ignore_eos=True)
    bench.submit("older", [1, 2, 3], sampling=sampling)
    newer = bench.submit("newer", [4, 5, 6], sampling=sampling)
    bench.run()
    names = [span.name for span in newer.finish.timings.spans]
    assert names[:5] == ["queue", "prefill", "decode", "preempted", "prefill"]
    spans = newer.finish.timings.spans
    assert all(one.end == following.start for one, following in pairwise(spans))


def poison(*names: str) -> Any:
    """Faults of requests that no step can compute."""

    def faults(step: StepInput) -> None:
        if not set(step.request_ids).isdisjoint(names):
            raise ValueError("the kernel cannot do this row")

    return faults


@pytest.mark.parametrize("culprits", [("r2",), ("r0", "r5"), ("r0", "r1", "r2", "r3", "r4", "r5")])
def test_a_step_that_raises_fails_only_the_culprits(culprits: tuple[str, ...]) -> None:
    bench = make_bench(faults=poison(*culprits))
    streams = {f"r{i}": bench.submit(f"r{i}", [i, 7]) for i in range(6)}
    bench.run()
    for i, (name, stream) in enumerate(streams.items()):
        finish = stream.finish
        if name in culprits:
            assert finish.error is not None and finish.error.code == "engine_error"
            assert "ValueError" in finish.error.message and "kernel" not in finish.error.message
        else:
            assert stream.token_ids == oracle([i, 7], max_tokens=4)
    assert bench.engine.pool.num_used == 0


def test_a_fault_that_does_not_come_again_fails_nobody() -> None:
    faults = iter([ValueError("a passing fault"), None, None])

    def once(step: StepInput) -> None:
        error = next(faults, None)
        if error is not None:
            raise error

    bench = make_bench(faults=once)
    streams = [bench.submit(f"r{i}", [i]) for i in range(3)]
    bench.run()
    assert [stream.token_ids for stream in streams] == [oracle([i], max_tokens=4) for i in range(3)]


def no_room_for(num_tokens: int) -> Any:
    def faults(step: StepInput) -> None:
        if step.num_tokens > num_tokens:
            raise OutOfMemoryError("CUDA out of memory")

    return faults


def test_out_of_memory_halves_the_batch_and_then_a_long_row() -> None:
    bench = make_bench(faults=no_room_for(3))
    streams = [bench.submit(f"r{i}", [i] * 11) for i in range(3)]
    bench.run()
    assert [stream.token_ids for stream in streams] == [oracle([i] * 11, max_tokens=4) for i in range(3)]


def test_a_single_token_without_memory_fails_with_its_own_code() -> None:
    bench = make_bench(faults=no_room_for(0))
    stream = bench.submit("r", range(10))
    bench.run()
    assert stream.finish.error is not None and stream.finish.error.code == "out_of_memory"
    assert bench.engine.pool.num_used == 0


def test_a_lost_device_is_no_requests_fault() -> None:
    def faults(step: StepInput) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    bench = make_bench(faults=faults)
    bench.submit("r", [1])
    with pytest.raises(DeviceLost):
        bench.engine.step()
    assert "r" in bench.engine.requests


def test_non_finite_logits_fail_one_row_and_leave_nothing_behind() -> None:
    bench = make_bench()
    bench.sampler.non_finite.add("bad")
    bad = bench.submit("bad", range(9))
    good = bench.submit("good", range(20, 29))
    bench.engine.step()
    assert bad.finish.error is not None and bad.finish.error.code == "non_finite_logits"
    assert bad.finish.usage.completion_tokens == 0
    assert len(bench.runner.zeroed) == 3
    again = bench.submit("again", range(9))
    bench.run()
    assert again.finish.usage.cached_tokens == 0
    assert good.token_ids == oracle(range(20, 29), max_tokens=4)


def test_non_finite_logits_do_not_wipe_what_others_read() -> None:
    bench = make_bench()
    other = bench.submit("other", range(9), sampling=Sampling(max_tokens=9, ignore_eos=True))
    bench.engine.step()
    bench.sampler.non_finite.add("bad")
    bench.submit("bad", range(9))
    bench.engine.step()
    assert len(bench.runner.zeroed) == 1
    bench.run()
    assert other.token_ids == oracle(range(9), max_tokens=9)


def test_a_sampler_that_raises_for_a_row_fails_that_row() -> None:
    bench = make_bench()
    bench.sampler.raising.add("r1")
    streams = [bench.submit(f"r{i}", [i]) for i in range(4)]
    bench.run()
    assert [stream.finish.reason for stream in streams] == [
        FinishReason.LENGTH,
        FinishReason.FAILED,
        FinishReason.LENGTH,
        FinishReason.LENGTH,
    ]


class FaultyDetokenizer(FakeDetokenizer):
    """Cannot read the token that the model says after [1]."""

    def push(self, token_ids: list[int]) -> str:
        if token_ids == [next_token([1])]:
            raise KeyError(SECRET)
        return super().push(token_ids)

    def flush(self) -> str:
        raise KeyError(SECRET)


def test_a_detokenizer_that_raises_fails_its_row_alone(caplog: pytest.LogCaptureFixture) -> None:
    bench = make_bench(detokenizer_factory=FaultyDetokenizer)
    bad, good = bench.submit("bad", [1]), bench.submit("good", [2])
    with caplog.at_level(logging.INFO):
        bench.run()
    assert "KeyError" in caplog.text and SECRET not in caplog.text
    assert bad.finish.error is not None and bad.finish.error.code == "engine_error"
    assert good.finish.reason is FinishReason.LENGTH
    assert good.token_ids == oracle([2], max_tokens=4)


def test_usage_counts_what_was_sent() -> None:
    bench = make_bench(detokenizer_factory=FaultyDetokenizer)
    streams = [bench.submit("bad", [1]), bench.submit("good", [2])]
    bench.run()
    for stream in streams:
        assert stream.finish.usage.completion_tokens == len(stream.token_ids)


def test_the_heartbeat_counts_from_when_there_is_work() -> None:
    bench = make_bench()
    bench.submit("r", [1], granted_tokens=1)
    assert bench.engine.stats().last_step_at == bench.clock.now
    bench.run()
    bench.clock.now += 50
    stats = bench.engine.stats()
    assert not stats.has_work
    bench.engine.grant("r", granted_tokens=2, is_final=False)
    stats = bench.engine.stats()
    assert stats.has_work and stats.last_step_at == bench.clock.now


def test_counters_count() -> None:
    bench = make_bench()
    for i in range(3):
        bench.submit(f"r{i}", [i, 1])
    assert bench.engine.stats().num_waiting == 3
    bench.run()
    stats = bench.engine.stats()
    assert (stats.num_prompt_tokens, stats.num_generated_tokens, stats.num_steps) == (6, 12, 4)
    assert (stats.num_running, stats.num_waiting, stats.num_blocks_used) == (0, 0, 0)
    assert stats.num_blocks == 16 and stats.num_blocks_cached == 3


@pytest.fixture(autouse=True)
def each_request_ends_once(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No test leaves a stream with two ends, whatever else it looks at."""
    made: list[Any] = []
    submit = Bench.submit

    def noting(self: Bench, *args: Any, **kwargs: Any) -> Any:
        stream = submit(self, *args, **kwargs)
        made.append(stream)
        return stream

    monkeypatch.setattr(Bench, "submit", noting)
    yield
    for stream in made:
        assert sum(isinstance(event, Finish) for event in stream.events) <= 1
