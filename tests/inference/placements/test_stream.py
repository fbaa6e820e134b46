"""Streaming a request: events come on the loop as they are made, to the last or until it is cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from inference.client import Cancel, EngineClient
from inference.config import PlacementConfig, RevisionSpec
from inference.protocol.errors import NotReady, QueueFull, RequestRejected, UnknownRevision
from inference.protocol.events import Delta, Event, Finish, FinishReason
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from tests.inference.placements.test_inprocess import House, house  # noqa: F401 - a fixture
from tests.inference.scheduling.fake_model import oracle
from tests.stub_engine import StubEngine


def request(request_id: str = "r", *, prompt: bytes = b"abc", **fields: object) -> GenerateRequest:
    return GenerateRequest(
        **{  # type: ignore[arg-type]
            "request_id": request_id,
            "revision": "fake",
            "token_ids": tuple(prompt),
            "owner": Owner("owner", "salt"),
            "sampling": Sampling(max_tokens=8, ignore_eos=True),
            **fields,
        }
    )


class Heard:
    """What a reader was given, and that it came on the loop."""

    def __init__(self) -> None:
        self.events: list[Event | Exception] = []
        self._loop = asyncio.get_running_loop()
        self.is_over = asyncio.Event()

    def __call__(self, event: Event | Exception) -> None:
        assert asyncio.get_running_loop() is self._loop
        assert not self.is_over.is_set(), "nothing comes after the end"
        self.events.append(event)
        if not isinstance(event, Delta):
            self.is_over.set()

    @property
    def token_ids(self) -> list[int]:
        deltas = [event for event in self.events if isinstance(event, Delta)]
        return [token_id for delta in deltas for token_id in delta.token_ids]


async def streamed(client: EngineClient, asked: GenerateRequest) -> Heard:
    heard = Heard()
    client.stream(asked, heard)
    assert heard.events == [], "never before it returns"
    async with asyncio.timeout(60):
        await heard.is_over.wait()
    return heard


async def test_every_token_comes_and_the_finish_last(house: House) -> None:  # noqa: F811
    heard = await streamed(house.client, request(token_ids=(1, 2, 3)))
    assert heard.token_ids == oracle((1, 2, 3), max_tokens=8)
    assert len(heard.events) == 9  # nothing is merged on the way
    assert isinstance(heard.events[-1], Finish) and heard.events[-1].reason is FinishReason.LENGTH


async def test_who_cancels_hears_no_more_and_the_blocks_are_free(house: House) -> None:  # noqa: F811
    house.gate.step_seconds = 0.1
    heard = Heard()
    cancel = house.client.stream(request(sampling=Sampling(max_tokens=50, ignore_eos=True)), heard)
    await house.until(lambda: len(heard.events) > 2)
    cancel()
    num_heard = len(heard.events)
    await house.until(lambda: house.num_used == 0)
    await asyncio.sleep(0.05)
    assert len(heard.events) == num_heard
    assert house.client.stats().revisions[0].num_generated_tokens < 50
    cancel()  # again: nothing happens


async def test_cancelling_a_request_ends_no_other_of_its_id(house: House) -> None:  # noqa: F811
    house.gate.step_seconds = 0.01
    first, second = Heard(), Heard()
    house.client.stream(request("same"), first)
    cancel = house.client.stream(request("same"), second)
    cancel()
    async with asyncio.timeout(60):
        await first.is_over.wait()
    assert isinstance(first.events[-1], Finish) and first.events[-1].reason is FinishReason.LENGTH


async def test_an_unload_waits_for_open_streams(house: House) -> None:  # noqa: F811
    house.gate.step_seconds = 0.1
    heard = Heard()
    house.client.stream(request(), heard)
    await house.until(lambda: len(heard.events) > 0)
    await house.client.unload("fake")
    assert isinstance(heard.events[-1], Finish) and heard.events[-1].reason is FinishReason.LENGTH


async def test_after_a_cancel_an_unload_waits_for_nothing(house: House) -> None:  # noqa: F811
    house.gate.is_open.clear()
    cancel = house.client.stream(request(), Heard())
    cancel()
    house.gate.is_open.set()
    async with asyncio.timeout(60):
        await house.client.unload("fake")


async def test_rejections_are_handed_over_and_not_raised(house: House) -> None:  # noqa: F811
    unknown = await streamed(house.client, request(revision="nowhere"))
    assert [type(event) for event in unknown.events] == [UnknownRevision]
    invalid = await streamed(house.client, request(token_ids=(1, 100)))
    assert isinstance(invalid.events[0], RequestRejected)  # the engine's own, from its thread
    assert house.client._open_requests.count("nowhere") == 0
    await house.client.drain(0)
    draining = await streamed(house.client, request())
    assert isinstance(draining.events[0], NotReady)


async def test_a_rejection_is_not_heard_by_who_cancelled(house: House) -> None:  # noqa: F811
    heard = Heard()
    house.client.stream(request(revision="nowhere"), heard)()
    await asyncio.sleep(0.01)
    assert heard.events == []
    assert house.client._open_requests.count("nowhere") == 0


async def test_a_reader_that_raises_takes_no_event_from_another(
    house: House,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(event: Event | Exception) -> None:
        raise ValueError("a bug")

    house.client.stream(request("broken"), broken)
    heard = await streamed(house.client, request("sound", token_ids=(3, 2, 1)))
    assert heard.token_ids == oracle((3, 2, 1), max_tokens=8)
    assert "a reader failed" in caplog.text


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[StubEngine]:
    """The engine that other tests are served by."""
    engine = StubEngine(PlacementConfig(data_dir=tmp_path))
    await engine.start()
    await engine.load(RevisionSpec("fake", tmp_path), lambda news: None)
    yield engine


async def test_the_stub_streams_as_a_placement_does(stub: StubEngine) -> None:
    heard = await streamed(stub, request())
    assert len(heard.token_ids) == 8 and isinstance(heard.events[-1], Finish)
    refused = await streamed(stub, request(prompt=b"refuse"))
    assert [type(event) for event in refused.events] == [QueueFull]


async def test_what_is_generated_ends_when_it_is_cancelled(stub: StubEngine) -> None:
    heard = Heard()
    cancel: Cancel = stub.stream(request(prompt=b"slow", sampling=Sampling(max_tokens=500)), heard)
    await until(lambda: len(heard.events) > 1)
    cancel()
    await until(lambda: not stub._running)
    num_heard = len(heard.events)
    await asyncio.sleep(0.1)
    assert len(heard.events) == num_heard


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)
