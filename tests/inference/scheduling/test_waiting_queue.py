"""What a request waited for: its spans say it afterwards, the snapshot says it meanwhile."""

from __future__ import annotations

import pytest

from inference.protocol.events import WaitReason
from inference.protocol.requests import Sampling
from tests.inference.scheduling.fake_model import Bench, Stream, make_bench

LONG = Sampling(max_tokens=8, ignore_eos=True)


def step(bench: Bench) -> None:
    bench.engine.step()
    bench.clock.now += 1


def waits(bench: Bench, name: str, prompt: range) -> Stream:
    """A request that arrives between two steps and is left in the queue by the next one."""
    bench.clock.now += 1
    stream = bench.submit(name, prompt, sampling=LONG)
    step(bench)
    assert name not in bench.engine.stats().running
    return stream


@pytest.mark.parametrize(
    ("limits", "prompt", "reason"),
    [
        ({"num_blocks": 4}, range(20, 25), WaitReason.BLOCKS),
        ({"max_num_seqs": 1}, range(20, 25), WaitReason.BATCH),
        ({"max_batch_tokens": 1, "max_num_seqs": 1}, range(20, 25), WaitReason.STEP),
    ],
)
def test_the_queue_says_what_it_waits_for(limits: dict[str, int], prompt: range, reason: WaitReason) -> None:
    bench = make_bench(**limits)  # type: ignore[arg-type]
    bench.submit("running", range(5), sampling=LONG)
    step(bench)
    assert bench.engine.stats().waits_for is None
    stream = waits(bench, "waiting", prompt)
    assert bench.engine.stats().waits_for is reason
    assert bench.engine.stats().running == ("running",)
    bench.run()
    assert bench.engine.stats().waits_for is None
    queue = stream.finish.timings.spans[0]
    assert (queue.name, queue.attributes) == ("queue", {"reason": reason.value})


def test_who_finds_room_at_once_waited_for_nothing() -> None:
    bench = make_bench()
    bench.submit("running", range(5), sampling=LONG)
    step(bench)
    bench.clock.now += 1
    stream = bench.submit("newcomer", range(20, 25), sampling=LONG)
    bench.run()
    assert stream.finish.timings.spans[0].attributes == {}


def test_who_shares_a_beginning_waits_until_it_is_computed() -> None:
    bench = make_bench(max_batch_tokens=14)
    bench.submit("first", range(24), sampling=LONG)
    step(bench)
    stream = waits(bench, "same", range(24))
    assert bench.engine.stats().waits_for is WaitReason.PREFIX
    bench.run()
    assert stream.finish.timings.spans[0].attributes == {"reason": "prefix"}


def test_decode_says_how_many_tokens_and_how_full_the_batch_was() -> None:
    bench = make_bench()
    first = bench.submit("first", range(5), sampling=LONG)
    bench.submit("second", range(20, 25), sampling=Sampling(max_tokens=3, ignore_eos=True))
    bench.run()
    decode = first.finish.timings.spans[-1]
    assert (decode.name, decode.attributes) == ("decode", {"tokens": 7, "batch": 2})


def test_timings_say_when_the_request_arrived() -> None:
    bench = make_bench()
    bench.clock.now += 5
    now = bench.clock.now
    stream = bench.submit("r", range(5), sampling=LONG)
    bench.run()
    assert stream.finish.timings.arrived_at == now
