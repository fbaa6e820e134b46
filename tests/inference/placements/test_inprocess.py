"""The in-process placement: what a reader sees of an engine that runs in another thread."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from inference.config import PlacementConfig, RevisionSpec
from inference.placements.inprocess import loader, outbox, threaded_engine
from inference.placements.inprocess.placement import InProcess
from inference.protocol.errors import ContextLengthExceeded, InvalidValue, NotReady, UnknownRevision
from inference.protocol.events import Delta, Event, Finish, FinishReason
from inference.protocol.requests import GenerateRequest, Owner, Sampling, TokenizedPrompt, TokenizeRequest
from inference.protocol.stats import LoadProgress, PromptStats
from inference.scheduling.step_executor import DeviceLost
from inference.scheduling.step_input import StepInput
from tests.inference.scheduling.fake_model import Bench, make_bench, oracle


class Gate:
    """Lets the engine's steps through, at once or slowly, or holds them."""

    def __init__(self) -> None:
        self.is_open = threading.Event()
        self.is_open.set()
        self.step_seconds = 0.0
        self.error: Exception | None = None

    def __call__(self, step: StepInput) -> None:
        assert self.is_open.wait(60)
        time.sleep(self.step_seconds)
        if self.error is not None:
            raise self.error


class Prompts:
    """Stands for the queue of a revision that has no tokenizer."""

    def stats(self) -> PromptStats:
        return PromptStats()

    def close(self) -> None:
        pass


class House:
    """A started placement over the fake model."""

    bench: Bench  # of the engine that was loaded last
    loader: threading.Thread  # that loaded it

    def __init__(self, client: InProcess) -> None:
        self.client = client
        self.gate = Gate()

    async def load(self) -> None:
        await self.client.load(RevisionSpec("fake", Path()), lambda news: None)

    def generate(self, request_id: str, *, max_tokens: int = 8, **request: Any) -> AsyncGenerator[Event]:
        return self.client.generate(
            GenerateRequest(
                request_id=request_id,
                revision="fake",
                token_ids=request.pop("token_ids", (1, 2, 3)),
                owner=Owner(request.pop("owner", "owner"), "salt"),
                sampling=Sampling(max_tokens=max_tokens, ignore_eos=True),
                **request,
            )
        )

    async def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(3000):
            if condition():
                return
            await asyncio.sleep(0.01)
        raise AssertionError("it does not come about")

    @property
    def num_used(self) -> int:
        return self.client.stats().revisions[0].num_blocks_used


@pytest.fixture
async def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[House]:
    house = House(InProcess(PlacementConfig(data_dir=tmp_path)))

    async def tokenize(request: TokenizeRequest) -> TokenizedPrompt:
        return TokenizedPrompt(token_ids=request.token_ids or (1,), max_output_tokens=9)

    def load(spec: RevisionSpec, progress: Callable[[LoadProgress], None], _: PlacementConfig) -> Any:
        house.loader = threading.current_thread()
        progress(LoadProgress("warming up", 0.5))
        house.bench = make_bench(faults=house.gate, num_blocks=16)
        house.bench.engine.clock = time.monotonic
        return SimpleNamespace(engine=house.bench.engine, tokenize=tokenize, prompts=Prompts())

    monkeypatch.setattr(loader, "load", load)
    await house.client.start()
    await house.load()
    yield house
    house.gate.is_open.set()
    await house.client.stop()


async def read(events: AsyncIterator[Event]) -> tuple[list[int], Finish]:
    token_ids: list[int] = []
    async for event in events:
        if isinstance(event, Finish):
            return token_ids, event
        token_ids += event.token_ids
    raise AssertionError("the stream ends without a finish")


async def test_the_thread_that_loads_ends_and_takes_its_openmp_workers_along(house: House) -> None:
    await house.until(lambda: not house.loader.is_alive())


async def test_a_load_that_is_given_up_serves_nothing(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    begun, go_on, engines = threading.Event(), threading.Event(), list[Bench]()

    def load(spec: RevisionSpec, progress: Callable[[LoadProgress], None], _: PlacementConfig) -> Any:
        begun.set()
        assert go_on.wait(60)
        engines.append(make_bench())
        return SimpleNamespace(engine=engines[0].engine, prompts=Prompts())

    monkeypatch.setattr(loader, "load", load)
    loading = asyncio.create_task(house.client.load(RevisionSpec("other", Path()), lambda news: None))
    await asyncio.to_thread(begun.wait, 60)
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    go_on.set()
    await house.until(lambda: not any(thread.name.startswith("load") for thread in threading.enumerate()))
    assert engines
    assert [card.revision for card in house.client.models()] == ["fake"]
    assert not caplog.records


async def test_the_device_is_known_before_anything_is_loaded(tmp_path: Path) -> None:
    client = InProcess(PlacementConfig(tmp_path))
    with pytest.raises(RuntimeError):
        client.devices()
    await client.start()
    (device,) = client.devices()
    assert device.name in ("cpu", "cuda") and device.dtype in ("float32", "bfloat16")
    assert 2**28 < device.free_bytes <= device.total_bytes
    await client.stop()


async def test_requests_stream_at_the_same_time(house: House) -> None:
    results = await asyncio.gather(*(read(house.generate(f"r{i}", token_ids=(i, 2))) for i in range(6)))
    for i, (token_ids, finish) in enumerate(results):
        assert token_ids == oracle((i, 2), max_tokens=8)
        assert finish.reason is FinishReason.LENGTH
    assert max(step.num_chunks for step in house.bench.runner.steps) > 1


async def test_revisions_take_turns_in_one_thread_and_leave_it_one_by_one(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns: list[str] = []
    threads: set[int] = set()
    gate = Gate()
    gate.is_open.clear()

    def load(spec: RevisionSpec, progress: Callable[[LoadProgress], None], _: PlacementConfig) -> Any:
        def step(step: StepInput) -> None:
            gate(step)
            turns.append(spec.revision)
            threads.add(threading.get_ident())

        bench = make_bench(faults=step, num_blocks=16)
        bench.engine.clock = time.monotonic
        return SimpleNamespace(engine=bench.engine, prompts=Prompts())

    monkeypatch.setattr(loader, "load", load)
    for revision in ("one", "two"):
        await house.client.load(RevisionSpec(revision, Path()), lambda news: None)
    requests = [
        GenerateRequest(
            request_id=revision,
            revision=revision,
            token_ids=(1, 2),
            owner=Owner("owner", "salt"),
            sampling=Sampling(max_tokens=20, ignore_eos=True),
        )
        for revision in ("one", "two")
    ]
    readers = [asyncio.ensure_future(read(house.client.generate(request))) for request in requests]
    await asyncio.sleep(0.05)  # both are there
    gate.is_open.set()
    await asyncio.gather(*readers)
    assert len(threads) == 1
    together = turns[turns.index("two") : 30]
    assert 0.3 < together.count("one") / len(together) < 0.7
    for revision in ("one", "two"):
        await house.client.unload(revision)
    token_ids, _ = await read(house.generate("r"))
    assert len(token_ids) == 8


async def test_an_engine_that_dies_takes_no_other_with_it(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def load(spec: RevisionSpec, progress: Callable[[LoadProgress], None], _: PlacementConfig) -> Any:
        bench = make_bench(faults=Gate(), num_blocks=16)
        monkeypatch.setattr(bench.engine, "step", lambda: 1 / 0)
        return SimpleNamespace(engine=bench.engine, prompts=Prompts())

    monkeypatch.setattr(loader, "load", load)
    await house.client.load(RevisionSpec("ill", Path()), lambda news: None)
    request = GenerateRequest("r", "ill", (1, 2), Owner("owner", "salt"))
    _, finish = await read(house.client.generate(request))
    assert finish.error is not None and finish.error.code == "engine_error"
    assert [card.revision for card in house.client.models()] == ["fake"]
    token_ids, _ = await read(house.generate("r"))
    assert len(token_ids) == 8
    await house.client.unload("ill")
    caplog.clear()


async def test_a_rejection_is_raised_from_the_first_step(house: House) -> None:
    with pytest.raises(InvalidValue) as caught:
        await anext(house.generate("r", token_ids=(1, 100)))
    assert caught.value.param == "prompt"


async def test_a_second_request_of_the_same_id_is_refused_and_does_not_abort_the_first(house: House) -> None:
    house.gate.is_open.clear()
    first = asyncio.ensure_future(read(house.generate("same")))
    await house.until(lambda: house.client.stats().revisions[0].has_work)
    second = asyncio.ensure_future(read(house.generate("same")))
    await asyncio.sleep(0)
    house.gate.is_open.set()
    with pytest.raises(InvalidValue):
        await second
    assert (await first)[1].reason is FinishReason.LENGTH


async def test_who_gives_up_on_a_refused_id_does_not_abort_its_holder(house: House) -> None:
    house.gate.is_open.clear()
    first = asyncio.ensure_future(read(house.generate("same")))
    await house.until(lambda: house.client.stats().revisions[0].has_work)
    second = asyncio.ensure_future(read(house.generate("same")))
    await asyncio.sleep(0)
    second.cancel()
    with pytest.raises(asyncio.CancelledError):
        await second
    house.gate.is_open.set()
    assert (await first)[1].reason is FinishReason.LENGTH


async def test_a_slow_reader_gets_every_token(house: House) -> None:
    events = house.generate("slow", max_tokens=50)
    first = await anext(events)
    assert isinstance(first, Delta)
    await house.until(lambda: not house.client.stats().revisions[0].has_work)
    token_ids, finish = await read(events)
    assert [*first.token_ids, *token_ids] == oracle((1, 2, 3), max_tokens=50)
    assert finish.reason is FinishReason.LENGTH


async def test_cancelling_a_reader_in_mid_stream_frees_its_blocks(house: House) -> None:
    house.gate.step_seconds = 0.1
    reader = asyncio.ensure_future(read(house.generate("cancelled", max_tokens=60)))
    await house.until(lambda: house.client.stats().revisions[0].num_generated_tokens > 2)
    assert house.num_used > 0
    reader.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reader
    await house.until(lambda: house.num_used == 0)
    assert house.client.stats().revisions[0].num_generated_tokens < 60


async def test_closing_the_iterator_aborts(house: House) -> None:
    house.gate.step_seconds = 0.1
    events = house.generate("closed", max_tokens=60)
    await anext(events)
    await events.aclose()
    await house.until(lambda: house.num_used == 0)
    assert house.client.stats().revisions[0].num_generated_tokens < 60


async def test_abort_ends_the_stream_with_a_finish(house: House) -> None:
    house.gate.step_seconds = 0.1
    events = house.generate("r", max_tokens=60)
    await anext(events)
    house.client.abort("r")
    house.client.abort("unknown")
    _, finish = await read(events)
    assert finish.reason is FinishReason.CANCELLED
    assert finish.usage.completion_tokens < 60


async def test_abort_owner_ends_only_that_owners_requests(house: House) -> None:
    house.gate.is_open.clear()
    mine = asyncio.ensure_future(read(house.generate("a", owner="mine")))
    other = asyncio.ensure_future(read(house.generate("b", owner="other")))
    await asyncio.sleep(0.02)
    house.client.abort_owner("mine")
    house.gate.is_open.set()
    assert (await mine)[1].reason is FinishReason.CANCELLED
    assert (await other)[1].reason is FinishReason.LENGTH


async def test_a_request_waits_at_its_grant_for_more(house: House) -> None:
    events = house.generate("r", max_tokens=8, granted_tokens=3)
    seen: list[int] = []
    while len(seen) < 3:
        event = await anext(events)
        assert isinstance(event, Delta)
        seen += event.token_ids
    await asyncio.sleep(0.05)
    assert house.client.stats().revisions[0].num_generated_tokens == 3
    house.client.grant("r", granted_tokens=5, is_final=True)
    token_ids, finish = await read(events)
    assert finish.reason is FinishReason.BUDGET
    assert seen + token_ids == oracle((1, 2, 3), max_tokens=5)


async def test_a_deadline_ends_a_request_that_nothing_else_wakes_up(house: House) -> None:
    from inference.protocol.requests import Deadlines

    events = house.generate("r", granted_tokens=1, deadlines=Deadlines(total_seconds=0.2))
    _, finish = await asyncio.wait_for(read(events), 60)
    assert finish.error is not None and finish.error.code == "request_timeout"


async def test_one_call_into_the_event_loop_brings_a_whole_step(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []
    put_all = outbox._put_all
    monkeypatch.setattr(outbox, "_put_all", lambda posts: (calls.append(len(posts)), put_all(posts)))
    house.gate.is_open.clear()
    readers = [asyncio.ensure_future(read(house.generate(f"r{i}", token_ids=(i,)))) for i in range(5)]
    await asyncio.sleep(0.05)
    house.gate.is_open.set()
    await asyncio.gather(*readers)
    assert len(calls) <= 12
    assert max(calls) >= 4


async def test_an_idle_threaded_engine_does_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    await read(house.generate("r"))
    steps: list[int] = []
    step = house.bench.engine.step
    monkeypatch.setattr(house.bench.engine, "step", lambda: (steps.append(1), step())[1])
    await asyncio.sleep(0.1)
    assert steps == []


async def test_the_books_are_audited_once_after_work(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    audits: list[int] = []
    monkeypatch.setattr(threaded_engine, "IDLE_AUDIT_SECONDS", 0.02)
    monkeypatch.setattr(house.bench.engine, "check_integrity", lambda: audits.append(1))
    await read(house.generate("r"))
    await house.until(lambda: bool(audits))
    await asyncio.sleep(0.2)
    assert audits == [1]


async def test_stats_show_work_before_a_first_long_step_ends(house: House) -> None:
    house.gate.is_open.clear()
    before = time.monotonic()
    reader = asyncio.ensure_future(read(house.generate("r")))
    await house.until(lambda: house.client.stats().revisions[0].has_work)
    last_step_at = house.client.stats().revisions[0].last_step_at
    assert last_step_at is not None and last_step_at >= before
    house.gate.is_open.set()
    await reader
    await house.until(lambda: not house.client.stats().revisions[0].has_work)


async def test_drain_refuses_new_requests_and_lets_the_others_finish(house: House) -> None:
    house.gate.is_open.clear()
    reader = asyncio.ensure_future(read(house.generate("r")))
    await house.until(lambda: house.client.stats().revisions[0].has_work)
    drain = asyncio.ensure_future(house.client.drain(60))
    await asyncio.sleep(0.02)
    assert house.client.stats().is_draining
    with pytest.raises(NotReady):
        await anext(house.generate("late"))
    assert not drain.done()
    house.gate.is_open.set()
    assert (await reader)[1].reason is FinishReason.LENGTH
    await asyncio.wait_for(drain, 60)


async def test_drain_cancels_what_is_left_at_the_deadline(house: House) -> None:
    reader = asyncio.ensure_future(read(house.generate("r", granted_tokens=1)))
    await house.until(lambda: house.client.stats().revisions[0].num_generated_tokens == 1)
    await asyncio.wait_for(house.client.drain(0.05), 60)
    assert (await reader)[1].reason is FinishReason.CANCELLED


@pytest.mark.parametrize("is_broken", [False, True])
async def test_a_dead_engine_fails_its_requests_and_says_so(
    house: House, is_broken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if is_broken:  # so much that it cannot even end its requests
        monkeypatch.setattr(house.bench.engine, "fail_all", None)
    house.gate.is_open.clear()
    readers = [asyncio.ensure_future(read(house.generate(f"r{i}"))) for i in range(3)]
    await house.until(lambda: house.client.stats().revisions[0].has_work)
    house.gate.error = DeviceLost("CUDA error")
    house.gate.error.args = ("CUDA error: device-side assert",)
    house.gate.is_open.set()
    for reader in readers:
        _, finish = await asyncio.wait_for(reader, 60)
        assert finish.reason is FinishReason.FAILED
        assert finish.error is not None and finish.error.is_retryable
        assert finish.usage.prompt_tokens == (0 if is_broken else 3)
    stats = house.client.stats().revisions[0]
    assert not stats.is_alive and "DeviceLost" in stats.error
    assert house.client.models() == ()
    with pytest.raises(NotReady):
        await anext(house.generate("late"))


async def test_unload_waits_for_requests_and_then_the_revision_is_unknown(house: House) -> None:
    house.gate.is_open.clear()
    reader = asyncio.ensure_future(read(house.generate("r")))
    await house.until(lambda: house.client.stats().revisions[0].has_work)
    unload = asyncio.ensure_future(house.client.unload("fake"))
    await asyncio.sleep(0.02)
    with pytest.raises(NotReady):
        await anext(house.generate("late"))
    house.gate.is_open.set()
    assert (await reader)[1].reason is FinishReason.LENGTH
    await unload
    assert house.client.models() == ()
    with pytest.raises(UnknownRevision):
        await anext(house.generate("later"))


async def test_loading_twice_builds_once_and_tells_its_progress(house: House) -> None:
    news: list[LoadProgress] = []
    before = house.client._revisions.serving("fake").engine
    await house.client.load(RevisionSpec("fake", Path()), news.append)
    assert house.client._revisions.serving("fake").engine is before
    await house.client.unload("fake")
    await house.client.load(RevisionSpec("fake", Path()), news.append)
    await asyncio.sleep(0)
    assert [item.stage for item in news] == ["warming up"]


async def test_prepare_keeps_within_bounds(house: House) -> None:
    tokenized = await house.client.tokenize(TokenizeRequest("fake", token_ids=(5, 6)))
    assert tokenized.token_ids == (5, 6)
    with pytest.raises(ContextLengthExceeded):
        await house.client.tokenize(TokenizeRequest("fake", text="x" * 100_000))
    with pytest.raises(ContextLengthExceeded):
        await house.client.tokenize(TokenizeRequest("fake", token_ids=(1,) * 65))
    with pytest.raises(UnknownRevision):
        await house.client.tokenize(TokenizeRequest("other", text="x"))


async def test_a_second_process_on_the_same_data_directory_is_refused(house: House) -> None:
    await house.client.start()  # idempotent in this one
    program = (
        "import asyncio, pathlib, sys\n"
        "from types import ModuleType\n"
        "host = sys.modules['inference.host'] = ModuleType('inference.host')\n"
        "host.Served = host.load = host.device = host.give_back = None\n"
        "from inference.placements.inprocess.placement import InProcess\n"
        "from inference.config import PlacementConfig\n"
        "asyncio.run(InProcess(PlacementConfig(pathlib.Path(sys.argv[1]))).start())\n"
    )
    folder = str(house.client.config.data_dir)
    second = subprocess.run(
        [sys.executable, "-c", program, folder], capture_output=True, text=True, timeout=60, check=False
    )
    assert second.returncode == 1
    assert "one web process per engine" in second.stderr


@pytest.fixture(autouse=True)
def no_thread_is_left_behind() -> Iterator[None]:
    yield
    assert not [thread.name for thread in threading.enumerate() if thread.name.startswith("engine")]
