"""Following a request: events are handed over on the loop as they come, to the last or until it is let go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from inference.client import EngineClient, LetGo
from inference.config import PlacementConfig, RevisionSpec
from inference.protocol.errors import NotReady, QueueFull, Refusal, UnknownRevision
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
    """What a follower was given, and that it came on the loop."""

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


async def followed(client: EngineClient, asked: GenerateRequest) -> Heard:
    heard = Heard()
    client.follow(asked, heard)
    assert heard.events == [], "never before it returns"
    async with asyncio.timeout(60):
        await heard.is_over.wait()
    return heard


async def test_every_token_comes_and_the_finish_last(house: House) -> None:  # noqa: F811
    heard = await followed(house.client, request(token_ids=(1, 2, 3)))
    assert heard.token_ids == oracle((1, 2, 3), max_tokens=8)
    assert len(heard.events) == 9  # nothing is merged on the way
    assert isinstance(heard.events[-1], Finish) and heard.events[-1].reason is FinishReason.LENGTH


async def test_who_lets_go_hears_no_more_and_the_blocks_are_free(house: House) -> None:  # noqa: F811
    house.gate.step_seconds = 0.1
    heard = Heard()
    let_go = house.client.follow(request(sampling=Sampling(max_tokens=50, ignore_eos=True)), heard)
    await house.until(lambda: len(heard.events) > 2)
    let_go()
    num_heard = len(heard.events)
    await house.until(lambda: house.num_used == 0)
    await asyncio.sleep(0.05)
    assert len(heard.events) == num_heard
    assert house.client.stats().revisions[0].num_generated_tokens < 50
    let_go()  # again: nothing happens


async def test_letting_go_of_a_request_ends_no_other_of_its_id(house: House) -> None:  # noqa: F811
    house.gate.step_seconds = 0.01
    first, second = Heard(), Heard()
    house.client.follow(request("same"), first)
    let_go = house.client.follow(request("same"), second)
    let_go()
    async with asyncio.timeout(60):
        await first.is_over.wait()
    assert isinstance(first.events[-1], Finish) and first.events[-1].reason is FinishReason.LENGTH


async def test_an_unload_waits_for_who_follows(house: House) -> None:  # noqa: F811
    house.gate.step_seconds = 0.1
    heard = Heard()
    house.client.follow(request(), heard)
    await house.until(lambda: len(heard.events) > 0)
    await house.client.unload("fake")
    assert isinstance(heard.events[-1], Finish) and heard.events[-1].reason is FinishReason.LENGTH


async def test_after_letting_go_an_unload_waits_for_nothing(house: House) -> None:  # noqa: F811
    house.gate.is_open.clear()
    let_go = house.client.follow(request(), Heard())
    let_go()
    house.gate.is_open.set()
    async with asyncio.timeout(60):
        await house.client.unload("fake")


async def test_refusals_are_handed_over_and_not_raised(house: House) -> None:  # noqa: F811
    unknown = await followed(house.client, request(revision="nowhere"))
    assert [type(event) for event in unknown.events] == [UnknownRevision]
    invalid = await followed(house.client, request(token_ids=(1, 100)))
    assert isinstance(invalid.events[0], Refusal)  # the engine's own, from its thread
    assert house.client._num_open["nowhere"] == 0  # type: ignore[attr-defined]
    await house.client.drain(0)
    draining = await followed(house.client, request())
    assert isinstance(draining.events[0], NotReady)


async def test_a_refusal_is_not_heard_by_who_let_go(house: House) -> None:  # noqa: F811
    heard = Heard()
    house.client.follow(request(revision="nowhere"), heard)()
    await asyncio.sleep(0.01)
    assert heard.events == []
    assert house.client._num_open["nowhere"] == 0  # type: ignore[attr-defined]


async def test_a_follower_that_raises_takes_no_event_from_another(
    house: House,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    def broken(event: Event | Exception) -> None:
        raise ValueError("a bug")

    house.client.follow(request("broken"), broken)
    heard = await followed(house.client, request("sound", token_ids=(3, 2, 1)))
    assert heard.token_ids == oracle((3, 2, 1), max_tokens=8)
    assert "a reader failed" in caplog.text


@pytest.fixture
async def stub(tmp_path: Path) -> AsyncIterator[StubEngine]:
    """A placement that only knows how to generate."""
    engine = StubEngine(PlacementConfig(data_dir=tmp_path))
    await engine.start()
    await engine.load(RevisionSpec("fake", tmp_path), lambda news: None)
    yield engine


async def test_what_can_be_generated_can_be_followed(stub: StubEngine) -> None:
    heard = await followed(stub, request())
    assert len(heard.token_ids) == 8 and isinstance(heard.events[-1], Finish)
    refused = await followed(stub, request(prompt=b"refuse"))
    assert [type(event) for event in refused.events] == [QueueFull]


async def test_what_is_generated_ends_when_it_is_let_go(stub: StubEngine) -> None:
    heard = Heard()
    let_go: LetGo = stub.follow(request(prompt=b"slow", sampling=Sampling(max_tokens=500)), heard)
    await until(lambda: len(heard.events) > 1)
    let_go()
    await until(lambda: not stub._running)
    num_heard = len(heard.events)
    await asyncio.sleep(0.1)
    assert len(heard.events) == num_heard


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.01)
