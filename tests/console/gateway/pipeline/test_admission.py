"""A revision that is unloaded while a request is on its way to it is chosen once more, and only once."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from console.accounts.caller import Caller
from console.catalog.choose import Arm
from console.deployments.load_on_demand import StillLoading
from console.gateway import drain
from console.gateway.endpoints.chat.endpoint import CHAT
from console.gateway.pipeline import admission
from console.gateway.pipeline.request import PipelineRequest, Prompt
from console.gateway.pipeline.spans import RequestTimeline
from inference.protocol.errors import ContextLengthExceeded, NotReady, UnknownRevision
from inference.protocol.requests import Sampling, TokenizedPrompt
from inference.protocol.stats import Stats

Told = Exception | None
CALLER = Caller("key", "id", "name", 1, "salt", key_pk=1)


class World:
    """Revisions 1, 2, ... are chosen one after the other; tokenizing says what `told` says."""

    def __init__(self, told: Iterable[Told], *, is_loaded: bool) -> None:
        self._told = list(told)
        self._is_loaded = is_loaded
        self.num_chosen = 0
        self.num_counted = 0

    async def choose(self, **_: Any) -> Arm:
        self.num_chosen += 1
        return Arm("stub", f"chosen-{self.num_chosen}")

    def is_loaded(self, revision: str) -> bool:
        return self._is_loaded

    async def wake(self, revision: str) -> bool:
        return False

    async def require_room(self, caller: Caller) -> None: ...

    async def count_request(self, caller: Caller) -> bool:
        self.num_counted += 1
        return True

    def current(self) -> World:
        return self

    async def tokenize(self, request: Any) -> TokenizedPrompt:
        told = self._told[self.num_chosen - 1]
        if told is not None:
            raise told
        return TokenizedPrompt((1,), max_output_tokens=8, text="p")


async def resolved(world: World, monkeypatch: pytest.MonkeyPatch) -> Any:
    for name in ("choose", "is_loaded", "wake", "require_room", "count_request"):
        monkeypatch.setattr(admission, name, getattr(world, name))
    monkeypatch.setattr(admission.client, "current", world.current)
    monkeypatch.setattr(drain, "_leases", {})  # those of other tests end when they are collected
    request = PipelineRequest("stub", (Prompt(text="p"),), 1, Sampling())
    one = admission._Admission(CHAT, CALLER, request, "rest", RequestTimeline(0.0))
    return await one._resolve_revision()


def num_leases() -> int:
    leased = drain.requests_by_revision(Stats(revisions=()))
    return leased["chosen-1"] + leased["chosen-2"]


@pytest.mark.parametrize("told", [UnknownRevision("stub-1"), NotReady("not now")])
async def test_what_was_unloaded_is_chosen_once_more(
    told: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World([told, None], is_loaded=False)
    found = await resolved(world, monkeypatch)
    assert found.arm == Arm("stub", "chosen-2") and world.num_counted == 1 and num_leases() == 1
    found.lease.release()


async def test_only_once(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World([NotReady("first"), NotReady("second")], is_loaded=False)
    with pytest.raises(NotReady, match="second"):
        await resolved(world, monkeypatch)
    assert world.num_chosen == 2 and num_leases() == 0


@pytest.mark.parametrize(
    ("told", "is_loaded"),
    [
        (NotReady("its queue is full"), True),
        (StillLoading("it takes longer"), False),
        (ContextLengthExceeded("too long"), False),
    ],
)
async def test_what_another_choice_does_not_help_is_raised(
    told: Exception, is_loaded: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World([told], is_loaded=is_loaded)
    with pytest.raises(type(told)):
        await resolved(world, monkeypatch)
    assert world.num_chosen == 1 and num_leases() == 0
