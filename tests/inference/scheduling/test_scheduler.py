"""What runs when: the budget, chunks, shared prefixes, preemption, priority, the queue's bounds."""

from __future__ import annotations

import pytest

from inference.protocol.errors import ContextLengthExceeded, InvalidValue, QueueFull
from inference.protocol.events import FinishReason
from inference.protocol.requests import Sampling
from inference.scheduling.prefill_budget import PrefillBudget
from inference.scheduling.scheduler import MAX_SKIPPED
from tests.inference.scheduling.fake_model import Bench, make_bench, oracle


def chunks(bench: Bench, number: int = -1) -> dict[str, tuple[int, int]]:
    """Start and length of each request's chunk in a step."""
    step = bench.runner.steps[number]
    return dict(zip(step.request_ids, zip(step.starts, step.lengths, strict=True), strict=True))


def test_a_long_prompt_is_computed_in_chunks_beside_decode() -> None:
    bench = make_bench(max_batch_tokens=8)
    bench.submit("short", [1, 2])
    bench.engine.step()
    bench.submit("long", range(3, 23))
    for expected in (
        {"short": (2, 1), "long": (0, 7)},
        {"short": (3, 1), "long": (7, 7)},
        {"short": (4, 1), "long": (14, 6)},
        {"long": (20, 1)},
    ):
        bench.engine.step()
        assert chunks(bench) == expected


def test_decode_goes_before_prefill_when_the_budget_is_short() -> None:
    bench = make_bench(max_batch_tokens=4)
    for name in "abc":
        bench.submit(name, [ord(name) % 50], sampling=Sampling(max_tokens=8, ignore_eos=True))
    bench.engine.step()
    bench.submit("prompt", range(20))
    bench.engine.step()
    assert chunks(bench) == {"a": (1, 1), "b": (1, 1), "c": (1, 1), "prompt": (0, 1)}


def test_a_full_batch_of_decodes_leaves_room_for_prefill_to_go_on() -> None:
    bench = make_bench(max_batch_tokens=2, max_num_seqs=64)
    streams = [bench.submit(f"r{i}", [i, 1, 2]) for i in range(4)]
    bench.run()
    assert [stream.finish.reason for stream in streams] == [FinishReason.LENGTH] * 4
    assert all(step.num_chunks <= 2 for step in bench.runner.steps)


def test_the_budget_holds_when_all_grants_are_raised_at_once() -> None:
    bench = make_bench(max_batch_tokens=2, max_num_seqs=64)
    for number in range(4):
        bench.submit(f"r{number}", [number], granted_tokens=1)
    bench.run()
    for number in range(4):
        bench.engine.grant(f"r{number}", granted_tokens=4, is_final=False)
    bench.run()
    assert max(step.num_tokens for step in bench.runner.steps) == 2


def test_a_newcomer_leaves_a_spare_block_to_each_running_sequence() -> None:
    bench = make_bench(num_blocks=4)
    bench.submit("running", range(5))
    bench.engine.step()
    bench.submit("newcomer", range(20, 25))
    bench.engine.step()
    assert set(chunks(bench)) == {"running"}


def test_found_blocks_that_nobody_holds_are_not_counted_as_free_as_well() -> None:
    bench = make_bench(num_blocks=4, max_batch_tokens=64)
    bench.submit("first", range(12), sampling=Sampling(max_tokens=1))
    bench.run()
    bench.submit("running", [50, 51], sampling=Sampling(max_tokens=2, ignore_eos=True))
    bench.engine.step()
    waiting = bench.submit("waiting", range(15), sampling=Sampling(max_tokens=1))
    bench.engine.step()
    assert set(chunks(bench)) == {"running"}
    bench.run()
    assert waiting.finish.usage.cached_tokens == 12


def test_at_most_max_num_seqs_run_at_once() -> None:
    bench = make_bench(max_num_seqs=2)
    streams = [bench.submit(f"r{i}", [i]) for i in range(5)]
    bench.run()
    assert max(step.num_chunks for step in bench.runner.steps) == 2
    assert all(stream.finish.reason is FinishReason.LENGTH for stream in streams)


def test_a_repeated_prompt_is_computed_once_and_leaves_a_token_to_compute() -> None:
    bench = make_bench()
    prompt = list(range(8))
    first = bench.submit("first", prompt)
    bench.run()
    second = bench.submit("second", prompt)
    bench.engine.step()
    assert chunks(bench) == {"second": (4, 4)}  # the second block as well would leave nothing to sample from
    bench.run()
    assert first.finish.usage.cached_tokens == 0
    assert second.finish.usage.cached_tokens == 4
    assert second.token_ids == first.token_ids == oracle(prompt, max_tokens=4)
    stats = bench.engine.stats()
    assert (stats.num_prefix_queries, stats.num_prefix_hits) == (16, 4)


def test_output_is_shared_as_well_so_the_next_turn_finds_it() -> None:
    bench = make_bench()
    prompt = list(range(6))
    first = bench.submit("first", prompt, sampling=Sampling(max_tokens=8, ignore_eos=True))
    bench.run()
    second = bench.submit("second", [*prompt, *first.token_ids, 5])
    bench.run()
    assert second.finish.usage.cached_tokens == 12


def test_prefixes_are_not_shared_between_salts() -> None:
    bench = make_bench()
    bench.submit("mine", range(12), salt="a")
    bench.run()
    for name, num_cached in (("other", 0), ("other again", 8)):
        other = bench.submit(name, range(12), salt="b")
        bench.run()
        assert other.finish.usage.cached_tokens == num_cached


def test_prefixes_are_not_shared_when_caching_is_off() -> None:
    bench = make_bench(prefix_caching=False)
    for name in ("first", "second"):
        stream = bench.submit(name, range(12))
        bench.run()
        assert stream.finish.usage.cached_tokens == 0
    assert bench.engine.stats().num_blocks_cached == 0
    assert bench.engine.stats().num_prefix_queries == 0


def test_a_burst_of_equal_prompts_computes_them_once() -> None:
    bench = make_bench(max_batch_tokens=64, num_blocks=32)
    streams = [bench.submit(f"choice {i}", range(13)) for i in range(4)]
    bench.run()
    computed = sum(step.num_tokens for step in bench.runner.steps)
    assert computed == 13 + 3 * 1 + 4 * 3  # the prompt, each other's last token, then decode
    assert [stream.finish.usage.cached_tokens for stream in streams] == [0, 12, 12, 12]


def test_a_higher_priority_does_not_wait_for_a_lower_ones_prefix() -> None:
    bench = make_bench(max_batch_tokens=20, num_blocks=32)
    bench.submit("low", range(26))
    bench.engine.step()
    bench.submit("equal", range(30))
    bench.submit("high", range(30), priority=1)
    bench.engine.step()
    assert chunks(bench) == {"low": (20, 6), "high": (20, 10)}
    bench.engine.step()
    assert chunks(bench)["equal"] == (28, 2)


def test_waiting_for_a_prefix_bounds_the_work_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make_bench(max_batch_tokens=4, num_blocks=64, max_num_seqs=100)
    for number in range(100):
        bench.submit(f"r{number}", range(20))
    bench.engine.step()
    looked_up: list[str] = []
    find = bench.engine.prefix_cache.find
    monkeypatch.setattr(
        bench.engine.prefix_cache,
        "find",
        lambda sequence: (looked_up.append(sequence.id), find(sequence))[1],
    )
    bench.engine.scheduler.prefill_budget = PrefillBudget(max_batch_tokens=20)  # so that budget is left
    bench.engine.scheduler.schedule()
    assert len(looked_up) == MAX_SKIPPED


def test_the_newest_of_the_lowest_priority_is_preempted_and_its_output_is_unchanged() -> None:
    bench = make_bench(num_blocks=8, max_batch_tokens=64)
    long = Sampling(max_tokens=14, ignore_eos=True)
    streams = {
        name: bench.submit(name, [number], sampling=long, priority=priority)
        for number, (name, priority) in enumerate([("low", 0), ("older", 1), ("newer", 1)])
    }
    bench.run()
    preemptions = {name: stream.finish.timings.num_preemptions for name, stream in streams.items()}
    assert preemptions["older"] == 0
    assert preemptions["low"] >= 1
    assert bench.engine.stats().num_preemptions == sum(preemptions.values())
    for number, stream in enumerate(streams.values()):
        assert stream.token_ids == oracle([number], max_tokens=14)


def test_a_preempted_request_finds_its_own_blocks_again() -> None:
    bench = make_bench(num_blocks=5, max_batch_tokens=64)
    bench.submit("older", [1, 2, 3], sampling=Sampling(max_tokens=14, ignore_eos=True))
    newer = bench.submit("newer", [4, 5, 6], sampling=Sampling(max_tokens=16, ignore_eos=True))
    bench.run()
    assert newer.finish.timings.num_preemptions >= 1
    computed = [chunks(bench, number).get("newer", (0, 0)) for number in range(len(bench.runner.steps))]
    assert any(start > 0 and length > 1 for start, length in computed)
    assert newer.finish.usage.cached_tokens == 0  # of the prompt, at first admission


def test_a_higher_priority_takes_the_place_of_a_lower_one() -> None:
    bench = make_bench(num_blocks=4, max_batch_tokens=64)
    low = bench.submit("low", range(10), sampling=Sampling(max_tokens=5, ignore_eos=True))
    bench.engine.step()
    high = bench.submit("high", range(20, 32), priority=1)
    bench.engine.step()
    assert chunks(bench) == {"high": (0, 12)}
    bench.run()
    assert low.finish.timings.num_preemptions == 1
    assert low.token_ids == oracle(range(10), max_tokens=5)
    assert high.finish.timings.num_preemptions == 0


def test_an_equal_priority_waits_for_its_turn() -> None:
    bench = make_bench(num_blocks=4, max_batch_tokens=64)
    first = bench.submit("first", range(10))
    bench.engine.step()
    bench.submit("second", range(20, 32))
    bench.engine.step()
    assert chunks(bench) == {"first": (10, 1)}
    bench.run()
    assert first.finish.timings.num_preemptions == 0


def test_waiting_requests_start_by_priority_then_by_arrival() -> None:
    bench = make_bench(max_num_seqs=1)
    for name, priority in (("a", 0), ("b", 2), ("c", 2), ("d", 1)):
        bench.submit(name, [ord(name) % 50], priority=priority, sampling=Sampling(max_tokens=1))
    bench.run()
    order = [request_id for step in bench.runner.steps for request_id in step.request_ids]
    assert order == ["b", "c", "d", "a"]


def test_a_long_prompt_at_the_head_of_the_queue_is_not_overtaken() -> None:
    bench = make_bench(num_blocks=8, max_batch_tokens=64)
    bench.submit("running", range(16), sampling=Sampling(max_tokens=8, ignore_eos=True))
    bench.engine.step()
    bench.submit("long", range(30, 54))
    bench.submit("short", [1])
    bench.engine.step()
    assert set(chunks(bench)) == {"running"}


def test_a_sequence_waiting_for_its_grant_gives_its_blocks_to_running_ones_first() -> None:
    bench = make_bench(num_blocks=6, max_batch_tokens=64)
    paused = bench.submit("paused", [1, 2, 3], granted_tokens=2, priority=5)
    running = [
        bench.submit(name, [number, 5, 6], sampling=Sampling(max_tokens=8, ignore_eos=True))
        for number, name in ((7, "older"), (8, "newer"))
    ]
    bench.run()
    assert bench.engine.requests["paused"].sequence.num_preemptions == 1
    assert [stream.finish.timings.num_preemptions for stream in running] == [0, 0]
    bench.engine.grant("paused", granted_tokens=4, is_final=False)
    bench.run()
    assert paused.token_ids == oracle([1, 2, 3], max_tokens=4)


def test_sequences_at_their_grant_give_way_when_nothing_else_can_run() -> None:
    bench = make_bench(num_blocks=4, max_batch_tokens=64)
    bench.submit("paused", range(11), granted_tokens=1)
    bench.run()
    other = bench.submit("other", range(20, 32))
    bench.run()
    assert other.finish.reason is FinishReason.LENGTH
    assert bench.engine.requests["paused"].sequence.num_preemptions == 1


def test_the_queue_is_bounded_by_requests_and_by_prompt_tokens() -> None:
    bench = make_bench(max_queued_requests=2)
    bench.submit("a", [1])
    bench.submit("b", [1])
    with pytest.raises(QueueFull):
        bench.submit("c", [1])
    assert "c" not in bench.engine.requests
    bench.engine.step()
    bench.submit("c", [1])
    bench = make_bench(max_queued_tokens=10)
    bench.submit("lone", range(20))
    with pytest.raises(QueueFull):
        bench.submit("next", [1])


def test_a_preempted_request_is_never_refused_a_place_in_the_queue() -> None:
    bench = make_bench(num_blocks=4, max_queued_requests=1, max_batch_tokens=64)
    sampling = Sampling(max_tokens=10, ignore_eos=True)
    streams = [bench.submit("a", [1], sampling=sampling)]
    bench.engine.step()
    streams.append(bench.submit("b", [2], sampling=sampling))
    bench.engine.step()
    streams.append(bench.submit("queued", [3] * 14, sampling=Sampling(max_tokens=1)))
    bench.run()
    assert sum(stream.finish.timings.num_preemptions for stream in streams) > 0
    assert all(stream.finish.reason is FinishReason.LENGTH for stream in streams)


@pytest.mark.parametrize(
    ("prompt", "sampling", "refusal", "param"),
    [
        ([], {}, InvalidValue, "prompt"),
        ([100], {}, InvalidValue, "prompt"),
        ([-1], {}, InvalidValue, "prompt"),
        ([1], {"stop_token_ids": (100,)}, InvalidValue, "stop_token_ids"),
        ([1], {"logit_bias": {100: 1.0}}, InvalidValue, "logit_bias"),
        ([1] * 64, {}, ContextLengthExceeded, "prompt"),
        ([1] * 60, {"max_tokens": 5}, ContextLengthExceeded, "max_tokens"),
    ],
)
def test_what_cannot_be_computed_is_refused_before_queueing(
    prompt: list[int], sampling: dict[str, object], refusal: type[InvalidValue], param: str
) -> None:
    bench = make_bench()
    with pytest.raises(refusal) as caught:
        bench.submit("r", prompt, sampling=Sampling(**sampling))
    assert caught.value.param == param
    assert not bench.engine.has_work


def test_a_prompt_larger_than_the_pool_is_refused_before_queueing() -> None:
    bench = make_bench(num_blocks=4)
    with pytest.raises(ContextLengthExceeded):
        bench.submit("r", range(16))
    stream = bench.submit("fits", range(15), sampling=Sampling(ignore_eos=True))
    bench.run()
    assert len(stream.token_ids) == 1


def test_an_id_in_flight_is_refused_and_free_again_afterwards() -> None:
    bench = make_bench()
    first = bench.submit("r", [1])
    with pytest.raises(InvalidValue) as caught:
        bench.submit("r", [2])
    assert caught.value.param == "request_id"
    bench.run()
    bench.submit("r", [2])
    assert first.finish.reason is FinishReason.LENGTH
