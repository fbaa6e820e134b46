"""The engine client of a process: each revision is served by the placement that loaded it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from itertools import chain
from typing import Any

from inference.client import Cancel, EngineClient, OnEvent
from inference.config import PlacementConfig, RevisionSpec
from inference.placements.registry import placement_class
from inference.protocol.errors import InvalidValue, NotReady
from inference.protocol.requests import GenerateRequest, TokenizedPrompt, TokenizeRequest
from inference.protocol.stats import Capabilities, Device, LoadProgress, ModelCard, Stats


class RoutingClient(EngineClient):
    """One client over several placements. All but the default one start when a revision is loaded that names
    them.

    What is asked of a revision that is nowhere goes to the default placement, which rejects it.
    """

    def __init__(self, config: PlacementConfig, *, default: str) -> None:
        super().__init__(config)
        self._default = default
        self._placements = {default: placement_class(default)(config)}  # by name, the default first
        self._started: set[str] = set()
        self._routes: dict[str, EngineClient] = {}  # by revision
        self._is_draining = False

    async def start(self) -> None:
        self._is_draining = False
        await self._start(self._default)

    def devices(self) -> tuple[Device, ...]:
        named = self._placements.items()
        asked = [one for name, one in named if name == self._default or name in self._started]
        return tuple(chain.from_iterable(placement.devices() for placement in asked))

    async def load(self, spec: RevisionSpec, progress: Callable[[LoadProgress], None]) -> ModelCard:
        name = spec.placement or self._default
        placement = self._placement(name)
        if self._routes.setdefault(spec.revision, placement) is not placement:
            raise NotReady(f"revision {spec.revision} is in another placement: unload it there first")
        try:
            if name not in self._started and name != self._default:
                await self._start(name)
            card = await placement.load(spec, progress)
        except BaseException:
            self._forget_unless_served(spec.revision)
            raise
        self._routes[spec.revision] = placement  # another load of it may have failed meanwhile
        return card

    async def unload(self, revision: str) -> None:
        await self._route(revision).unload(revision)
        self._forget_unless_served(revision)

    def models(self) -> tuple[ModelCard, ...]:
        return tuple(chain.from_iterable(placement.models() for placement in self._all()))

    def capabilities(self, revision: str) -> Capabilities:
        return self._route(revision).capabilities(revision)

    async def tokenize(self, request: TokenizeRequest) -> TokenizedPrompt:
        return await self._route(request.revision).tokenize(request)

    def stream(self, request: GenerateRequest, on_event: OnEvent) -> Cancel:
        return self._route(request.revision).stream(request, on_event)

    def grant(self, request_id: str, *, granted_tokens: int, is_final: bool) -> None:
        for placement in self._all():
            placement.grant(request_id, granted_tokens=granted_tokens, is_final=is_final)

    def abort(self, request_id: str) -> None:
        for placement in self._all():
            placement.abort(request_id)

    def abort_owner(self, owner_id: str) -> None:
        for placement in self._all():
            placement.abort_owner(owner_id)

    def stats(self) -> Stats:
        all_stats = [placement.stats() for placement in self._all()]
        return Stats(
            revisions=tuple(chain.from_iterable(stats.revisions for stats in all_stats)),
            is_draining=any(stats.is_draining for stats in all_stats),
        )

    async def drain(self, deadline_seconds: float) -> None:
        self._is_draining = True
        await _all_of(placement.drain(deadline_seconds) for placement in self._all())

    async def stop(self) -> None:
        self._is_draining = True
        await _all_of(placement.stop() for placement in self._all())
        self._started.clear()
        self._routes.clear()

    def _all(self) -> tuple[EngineClient, ...]:
        return tuple(self._placements.values())

    def _route(self, revision: str) -> EngineClient:
        return self._routes.get(revision) or self._placements[self._default]

    def _placement(self, name: str) -> EngineClient:
        """The placement of that name, made where there is none."""
        placement = self._placements.get(name)
        if placement is None:
            if self._is_draining:
                raise NotReady("the server is shutting down")
            try:
                placement = placement_class(name)(self.config)
            except ValueError as error:
                raise InvalidValue(str(error), param="placement") from error
            self._placements[name] = placement
        return placement

    async def _start(self, name: str) -> None:
        await self._placements[name].start()
        self._started.add(name)

    def _forget_unless_served(self, revision: str) -> None:
        if not any(card.revision == revision for card in self._route(revision).models()):
            self._routes.pop(revision, None)


async def _all_of(work: Iterable[Coroutine[Any, Any, None]]) -> None:
    """Do all of it side by side, whatever fails; then raise what failed first."""
    for outcome in await asyncio.gather(*work, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome
