"""The default placement: the engines of all revisions in a thread of this process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial

from inference.config import PlacementConfig, RevisionSpec
from inference.host import device, give_back
from inference.placements.base import Placement
from inference.placements.event_stream import EventStream
from inference.placements.inprocess.data_dir_lock import DataDirLock
from inference.placements.inprocess.loaded_revisions import LoadedRevision, LoadedRevisions
from inference.placements.inprocess.loader import Loader, run_in_new_thread
from inference.placements.prompt_bounds import check_size
from inference.protocol.errors import NotReady
from inference.protocol.requests import GenerateRequest, TokenizedPrompt, TokenizeRequest
from inference.protocol.stats import Device, LoadProgress, ModelCard, Stats


class InProcess(Placement):
    """Engines in this process's memory, computed in turns by one thread."""

    def __init__(self, config: PlacementConfig) -> None:
        super().__init__(config)
        self._revisions = LoadedRevisions()
        self._loader = Loader(config, self._revisions)
        self._data_dir = DataDirLock(config.data_dir)
        self._device: Device | None = None

    async def start(self) -> None:
        self._is_draining = False
        if self._device is None or not self._data_dir.is_held:
            await asyncio.to_thread(self._data_dir.take)
            self._device = await run_in_new_thread(device)

    def devices(self) -> tuple[Device, ...]:
        if self._device is None:
            raise RuntimeError("the engine is not started")
        return (self._device,)

    async def load(self, spec: RevisionSpec, progress: Callable[[LoadProgress], None]) -> ModelCard:
        if not self._data_dir.is_held:
            raise NotReady("the engine is not started")
        loaded = await self._loader.load(spec, progress)
        return loaded.engine.card

    async def unload(self, revision: str) -> None:
        loaded = self._revisions.get(revision)
        if loaded is None:
            return
        loaded.is_leaving = True
        await asyncio.to_thread(self._open_requests.wait_until_idle, revision, None)
        if self._revisions.pop(revision) is None:
            return  # somebody else waited for the same
        leaving = [loaded]
        del loaded  # or its memory would be held while it is given back
        await asyncio.to_thread(_stop, leaving)

    def models(self) -> tuple[ModelCard, ...]:
        return tuple(loaded.engine.card for loaded in self._revisions if loaded.is_serving)

    async def tokenize(self, request: TokenizeRequest) -> TokenizedPrompt:
        loaded = self._serving(request.revision)
        check_size(request, max_model_len=loaded.engine.card.max_model_len)
        return await loaded.served.tokenize(request)

    def grant(self, request_id: str, *, granted_tokens: int, is_final: bool) -> None:
        for loaded in self._revisions:
            loaded.engine.grant(request_id, granted_tokens=granted_tokens, is_final=is_final)

    def abort(self, request_id: str) -> None:
        for loaded in self._revisions:
            loaded.engine.abort(request_id)

    def abort_owner(self, owner_id: str) -> None:
        for loaded in self._revisions:
            loaded.engine.abort_owner(owner_id)

    def stats(self) -> Stats:
        return Stats(tuple(loaded.stats() for loaded in self._revisions), self._is_draining)

    async def stop(self) -> None:
        self._is_draining = True
        for loaded in self._revisions.pop_all():
            await asyncio.to_thread(loaded.stop)
        self._data_dir.release()

    def _submit(self, request: GenerateRequest, events: EventStream) -> Callable[[], object]:
        engine = self._serving(request.revision).engine
        engine.submit(request, events)
        return partial(engine.cancel, request.request_id, events)

    def _abort_all(self) -> None:
        for loaded in self._revisions:
            loaded.engine.abort_all()

    def _serving(self, revision: str) -> LoadedRevision:
        if self._is_draining:
            raise NotReady("the server is shutting down")
        return self._revisions.serving(revision)


def _stop(leaving: list[LoadedRevision]) -> None:
    """Stops those who leave; nobody but the list may hold them."""
    while leaving:
        leaving.pop().stop()
    give_back()
