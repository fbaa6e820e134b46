"""Two placements behind one client: each request reaches the placement that loaded its revision."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from inference import client
from inference.config import PlacementConfig, RevisionSpec
from inference.placements.router import RoutingClient
from inference.protocol.errors import InvalidValue, NotReady, RequestRejected, UnknownRevision
from inference.protocol.events import Delta, Finish, FinishReason
from inference.protocol.requests import GenerateRequest, Owner, Sampling, TokenizeRequest
from inference.protocol.stats import Capabilities, Device, LoadProgress, ModelCard
from tests.stub_engine import DEVICE, StubEngine

OTHER_DEVICE = Device("cuda", "bfloat16", total_bytes=2, free_bytes=1)
OTHER = "tests.inference.placements.test_router.OtherEngine"
FAILING = "tests.inference.placements.test_router.FailingEngine"


class OtherEngine(StubEngine):
    """A placement elsewhere, which counts what it is told to do."""

    num_starts = num_stops = 0

    async def start(self) -> None:
        await super().start()
        type(self).num_starts += 1

    def devices(self) -> tuple[Device, ...]:
        return (OTHER_DEVICE,)

    async def stop(self) -> None:
        await super().stop()
        type(self).num_stops += 1


class GrantlessEngine(StubEngine):
    """A placement that cannot be given more tokens later."""

    def capabilities(self, revision: str) -> Capabilities:
        return Capabilities(can_grant=False)


class FailingEngine(StubEngine):
    """A placement that is of no use."""

    async def start(self) -> None:
        raise NotReady("no such machine")

    async def stop(self) -> None:
        raise RuntimeError("it does not stop")


@pytest.fixture
async def router(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RoutingClient]:
    """`here` is served by the default placement, `there` by another one."""
    monkeypatch.setattr(OtherEngine, "num_starts", 0)
    monkeypatch.setattr(OtherEngine, "num_stops", 0)
    router = RoutingClient(PlacementConfig(tmp_path), default="tests.stub_engine.StubEngine")
    await router.start()
    await load(router, "here")
    await load(router, "there", placement=OTHER)
    yield router
    await router.stop()


async def load(router: RoutingClient, revision: str, *, placement: str | None = None) -> ModelCard:
    spec = RevisionSpec(revision, router.config.data_dir, placement=placement)
    return await router.load(spec, lambda news: None)


def placement_of(router: RoutingClient, revision: str) -> StubEngine:
    placement = router._route(revision)
    assert isinstance(placement, StubEngine)
    return placement


def request(
    revision: str, *, prompt: bytes = b"who", owner: str = "owner", max_tokens: int = 20
) -> GenerateRequest:
    return GenerateRequest(
        request_id=f"to {revision}" if owner == "owner" else f"{owner} to {revision}",
        revision=revision,
        token_ids=tuple(prompt),
        owner=Owner(owner, "salt"),
        sampling=Sampling(max_tokens=max_tokens),
        granted_tokens=5 if prompt == b"granted" else None,
    )


async def read(router: RoutingClient, asked: GenerateRequest) -> tuple[str, Finish]:
    text = ""
    async for event in router.generate(asked):
        if isinstance(event, Finish):
            return text, event
        text += event.text
    raise AssertionError("it ends without a finish")


async def started(router: RoutingClient, *asked: GenerateRequest) -> list[asyncio.Task[tuple[str, Finish]]]:
    """Readers of requests that have all begun."""
    reading = [asyncio.create_task(read(router, one)) for one in asked]
    async with asyncio.timeout(60):
        while sum(stats.num_running for stats in router.stats().revisions) < len(asked):
            await asyncio.sleep(0.01)
    return reading


async def reason_of(reading: asyncio.Task[tuple[str, Finish]]) -> FinishReason:
    async with asyncio.timeout(60):
        return (await reading)[1].reason


async def test_a_revision_is_generated_where_it_was_loaded(router: RoutingClient) -> None:
    for revision, kind in (("here", StubEngine), ("there", OtherEngine)):
        text, finish = await read(router, request(revision))
        assert text == revision and finish.reason is FinishReason.STOP
        assert type(placement_of(router, revision)) is kind
        assert placement_of(router, revision)._num_generated > 0


async def test_it_is_tokenized_there_as_well(router: RoutingClient) -> None:
    del placement_of(router, "here")._cards["here"]
    assert (await router.tokenize(TokenizeRequest("there", text="ab"))).token_ids == (97, 98)
    with pytest.raises(UnknownRevision):
        await router.tokenize(TokenizeRequest("here", text="ab"))


async def test_abort_ends_the_request_of_that_id_wherever_it_runs(router: RoutingClient) -> None:
    here, there = await started(router, request("here", prompt=b"hang"), request("there", prompt=b"hang"))
    router.abort("to there")
    assert await reason_of(there) is FinishReason.CANCELLED
    assert not here.done()
    router.abort("to here")
    assert await reason_of(here) is FinishReason.CANCELLED


async def test_abort_owner_ends_the_owners_requests_everywhere(router: RoutingClient) -> None:
    mine = [request(name, prompt=b"hang", owner="mine") for name in ("here", "there")]
    first, second, other = await started(router, *mine, request("here", prompt=b"slow", owner="other"))
    router.abort_owner("mine")
    assert await reason_of(first) is await reason_of(second) is FinishReason.CANCELLED
    assert await reason_of(other) is FinishReason.LENGTH


async def test_a_grant_reaches_the_placement_that_waits_for_it(router: RoutingClient) -> None:
    (reading,) = await started(router, request("there", prompt=b"granted"))
    router.grant("to there", granted_tokens=7, is_final=True)
    assert await reason_of(reading) is FinishReason.BUDGET
    assert reading.result()[1].usage.completion_tokens == 7


async def test_cancelling_a_stream_frees_it_where_it_runs(router: RoutingClient) -> None:
    (reading,) = await started(router, request("there", prompt=b"hang"))
    reading.cancel()
    async with asyncio.timeout(60):
        while placement_of(router, "there")._running:
            await asyncio.sleep(0.01)


async def test_models_stats_and_devices_are_those_of_all_placements(router: RoutingClient) -> None:
    assert [card.revision for card in router.models()] == ["here", "there"]
    assert [stats.revision for stats in router.stats().revisions] == ["here", "there"]
    assert not router.stats().is_draining
    assert router.devices() == (DEVICE, OTHER_DEVICE)


async def test_capabilities_are_those_of_the_revisions_placement(router: RoutingClient) -> None:
    await load(router, "grantless", placement=f"{__name__}.{GrantlessEngine.__name__}")
    assert router.capabilities("here").can_grant and router.capabilities("there").can_grant
    assert not router.capabilities("grantless").can_grant
    assert [card.revision for card in router.models()] == ["here", "there", "grantless"]


async def test_a_placement_starts_once_and_only_when_a_revision_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(OtherEngine, "num_starts", 0)
    router = RoutingClient(PlacementConfig(tmp_path), default="tests.stub_engine.StubEngine")
    await router.start()
    await load(router, "here")
    assert OtherEngine.num_starts == 0 and router.devices() == (DEVICE,)
    for revision in ("one", "two"):
        await load(router, revision, placement=OTHER)
    assert OtherEngine.num_starts == 1
    await router.stop()


async def test_an_unknown_revision_is_rejected_and_unloading_it_does_nothing(router: RoutingClient) -> None:
    with pytest.raises(UnknownRevision):
        await router.tokenize(TokenizeRequest("nowhere", text="x"))
    with pytest.raises(UnknownRevision):
        await read(router, request("nowhere"))
    await router.unload("nowhere")
    router.abort("nowhere")
    assert [card.revision for card in router.models()] == ["here", "there"]


async def test_what_is_unloaded_may_be_loaded_into_another_placement(router: RoutingClient) -> None:
    with pytest.raises(NotReady, match="unload it there first"):
        await load(router, "there")
    assert type(placement_of(router, "there")) is OtherEngine
    await router.unload("there")
    with pytest.raises(UnknownRevision):
        await read(router, request("there"))
    await load(router, "there")
    assert type(placement_of(router, "there")) is StubEngine
    assert (await read(router, request("there")))[0] == "there"


async def test_an_unload_waits_for_its_own_requests_alone(router: RoutingClient) -> None:
    here, there = await started(router, request("here", prompt=b"hang"), request("there", prompt=b"slow"))
    await router.unload("there")
    assert await reason_of(there) is FinishReason.LENGTH
    assert not here.done()
    router.abort("to here")
    await here


async def test_a_load_that_fails_leaves_the_revision_to_any_placement(router: RoutingClient) -> None:
    folder = router.config.data_dir
    (folder / "stub.json").write_text('{"error": "it does not fit"}')
    with pytest.raises(RequestRejected, match="it does not fit"):
        await load(router, "big", placement=OTHER)
    with pytest.raises(UnknownRevision):
        await router.tokenize(TokenizeRequest("big", text="x"))
    (folder / "stub.json").unlink()
    await load(router, "big")
    assert type(placement_of(router, "big")) is StubEngine


async def test_a_second_load_that_fails_keeps_the_route_of_what_is_served(router: RoutingClient) -> None:
    (router.config.data_dir / "stub.json").write_text('{"error": "not now"}')
    with pytest.raises(RequestRejected):
        await load(router, "there", placement=OTHER)
    assert (await read(router, request("there")))[0] == "there"


@pytest.mark.parametrize("name", ["nothing", "tests.stub_engine.NoEngine", "no.such.module.Engine"])
async def test_a_placement_that_there_is_not_is_named(router: RoutingClient, name: str) -> None:
    with pytest.raises(InvalidValue, match=name) as rejected:
        await load(router, "new", placement=name)
    assert rejected.value.param == "placement"
    assert [card.revision for card in router.models()] == ["here", "there"]


async def test_drain_covers_all_placements_and_no_new_one_is_made(router: RoutingClient) -> None:
    here, there = await started(router, request("here", prompt=b"hang"), request("there", prompt=b"slow"))
    await router.drain(0.05)
    assert router.stats().is_draining
    assert await reason_of(here) is FinishReason.CANCELLED
    assert await reason_of(there) is FinishReason.CANCELLED
    for revision in ("here", "there"):
        with pytest.raises(NotReady):
            await read(router, request(revision))
    with pytest.raises(NotReady):
        await load(router, "new", placement=FAILING)


async def test_stop_reaches_every_placement_and_they_start_again(router: RoutingClient) -> None:
    await router.stop()
    assert OtherEngine.num_stops == 1 and router.models() == ()
    await router.start()
    assert router.devices() == (DEVICE,) and OtherEngine.num_starts == 1
    await load(router, "there", placement=OTHER)
    assert OtherEngine.num_starts == 2
    assert (await read(router, request("there")))[0] == "there"


async def test_a_placement_that_fails_takes_no_other_with_it(router: RoutingClient) -> None:
    with pytest.raises(NotReady, match="no such machine"):
        await load(router, "new", placement=FAILING)
    assert router.devices() == (DEVICE, OTHER_DEVICE)
    assert (await read(router, request("here")))[0] == "here"
    with pytest.raises(RuntimeError, match="does not stop"):
        await router.stop()
    assert OtherEngine.num_stops == 1 and router.models() == ()
    del router._placements[FAILING]


async def test_what_is_configured_routes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(client, "_current", None)
    configured = client.configure("tests.stub_engine.StubEngine", PlacementConfig(tmp_path))
    assert client.current() is configured
    await configured.start()
    news: list[LoadProgress] = []
    await configured.load(RevisionSpec("r", tmp_path), news.append)
    events = [event async for event in configured.generate(request("r"))]
    assert isinstance(events[0], Delta) and isinstance(events[-1], Finish)
    assert [one.stage for one in news] == ["ready"]


def test_an_engine_that_there_is_not_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(client, "_current", None)
    with pytest.raises(ValueError, match="neither one of inprocess nor a dotted path"):
        client.configure("inproces", PlacementConfig(tmp_path))
    with pytest.raises(RuntimeError):
        client.current()
