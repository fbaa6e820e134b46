"""The default placement: the engines of all revisions in a thread of this process."""

from __future__ import annotations

import asyncio
import fcntl
import threading
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import IO, TypeVar

from inference.client import EngineClient, LetGo, Receive
from inference.config import PlacementConfig, RevisionSpec
from inference.host import Served, device, give_back, load
from inference.placements.event_stream import Follower, Stream
from inference.placements.inprocess.engine_thread import EngineThread, Turns
from inference.placements.prompt_bounds import check_size
from inference.protocol.errors import NotReady, Refusal, UnknownRevision
from inference.protocol.events import Event, Finish
from inference.protocol.requests import GenerateRequest, Prepared, PrepareRequest
from inference.protocol.stats import Device, LoadProgress, ModelCard, RevisionStats, Stats

T = TypeVar("T")

CANCEL_SECONDS = 10.0  # how long a drain waits for what it has cancelled

ALREADY_TAKEN = (
    "another process serves from {folder}: "
    "run one web process per engine, and give a second one its own DATA_DIR"
)


class LoadGivenUp(Exception):
    """Nobody waits for this load any more."""


@dataclass(slots=True)
class Residence:
    """A revision that lives here."""

    served: Served
    thread: EngineThread
    is_leaving: bool = False

    def stats(self) -> RevisionStats:
        return replace(self.thread.stats, prompts=self.served.prompts.stats())

    def stop(self) -> None:
        """Blocks until its thread and its process have ended."""
        self.thread.stop()
        self.served.prompts.close()


class InProcess(EngineClient):
    """Engines as threads. One process holds a data directory: two would plan the same memory twice."""

    def __init__(self, config: PlacementConfig) -> None:
        super().__init__(config)
        self._residences: dict[str, Residence] = {}
        self._turns = Turns()
        self._loading: set[str] = set()
        self._load_turn = threading.Lock()  # one load at a time: each plans by the memory that is free
        self._lock_file: IO[str] | None = None
        self._device: Device | None = None
        self._num_open: dict[str, int] = {}  # generate iterators not closed yet, by revision
        self._rest = threading.Condition()  # notified when one of them closes
        self._is_draining = False

    async def start(self) -> None:
        self._is_draining = False
        if self._lock_file is None:
            self._lock_file = await asyncio.to_thread(self._take_data_dir)
            self._device = await _in_a_thread_that_ends(device)

    def device(self) -> Device:
        if self._device is None:
            raise RuntimeError("the engine is not started")
        return self._device

    async def load(self, spec: RevisionSpec, progress: Callable[[LoadProgress], None]) -> ModelCard:
        if self._lock_file is None:
            raise NotReady("the engine is not started")
        loop = asyncio.get_running_loop()
        given_up = threading.Event()

        def tell(news: LoadProgress) -> None:
            if given_up.is_set():
                raise LoadGivenUp
            loop.call_soon_threadsafe(progress, news)

        self._loading.add(spec.revision)
        try:
            residence = await _in_a_thread_that_ends(partial(self._load, spec, tell, given_up))
        except asyncio.CancelledError:
            given_up.set()
            raise
        finally:
            self._loading.discard(spec.revision)
        return residence.thread.card

    async def unload(self, revision: str) -> None:
        residence = self._residences.get(revision)
        if residence is None:
            return
        residence.is_leaving = True
        await asyncio.to_thread(self._wait_for_rest, revision, None)
        if self._residences.pop(revision, None) is None:
            return  # somebody else waited for the same
        leaving = [residence]
        del residence  # or its memory would be held while it is given back
        await asyncio.to_thread(_end, leaving)

    def models(self) -> tuple[ModelCard, ...]:
        return tuple(
            residence.thread.card
            for residence in tuple(self._residences.values())
            if residence.thread.is_alive and not residence.is_leaving
        )

    async def prepare(self, request: PrepareRequest) -> Prepared:
        residence = self._find(request.revision)
        check_size(request, max_model_len=residence.thread.card.max_model_len)
        return await residence.served.prepare(request)

    async def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        thread = self._find(request.revision).thread
        stream = Stream(asyncio.get_running_loop())
        self._count_open(request.revision, +1)
        try:
            thread.submit(request, stream)
            while True:
                event = await stream.next()
                yield event
                if isinstance(event, Finish):
                    return
        finally:
            if not stream.is_over:
                thread.cancel(request.request_id, stream)
            self._count_open(request.revision, -1)

    def follow(self, request: GenerateRequest, receive: Receive) -> LetGo:
        loop = asyncio.get_running_loop()
        follower = Follower(loop, receive, partial(self._count_open, request.revision, -1))
        self._count_open(request.revision, +1)
        try:
            thread = self._find(request.revision).thread
            thread.submit(request, follower)
        except Refusal as refusal:
            loop.call_soon(follower.put, refusal)
            return follower.end

        def let_go() -> None:
            if follower.end():
                thread.cancel(request.request_id, follower)

        return let_go

    def extend(self, request_id: str, *, allowance: int, is_final: bool) -> None:
        for residence in tuple(self._residences.values()):
            residence.thread.extend(request_id, allowance=allowance, is_final=is_final)

    def abort(self, request_id: str) -> None:
        for residence in tuple(self._residences.values()):
            residence.thread.abort(request_id)

    def abort_owner(self, owner_id: str) -> None:
        for residence in tuple(self._residences.values()):
            residence.thread.abort_owner(owner_id)

    def stats(self) -> Stats:
        residences = tuple(self._residences.values())
        return Stats(tuple(residence.stats() for residence in residences), self._is_draining)

    async def drain(self, deadline_seconds: float) -> None:
        self._is_draining = True
        if await asyncio.to_thread(self._wait_for_rest, None, deadline_seconds):
            return
        for residence in tuple(self._residences.values()):
            residence.thread.abort_all()
        await asyncio.to_thread(self._wait_for_rest, None, CANCEL_SECONDS)

    async def stop(self) -> None:
        self._is_draining = True
        residences, self._residences = tuple(self._residences.values()), {}
        for residence in residences:
            await asyncio.to_thread(residence.stop)
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None

    def _take_data_dir(self) -> IO[str]:
        self.config.data_dir.mkdir(parents=True, exist_ok=True)
        lock_file = (self.config.data_dir / "engine.lock").open("w")
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock_file.close()
            raise RuntimeError(ALREADY_TAKEN.format(folder=self.config.data_dir)) from error
        return lock_file

    def _load(
        self, spec: RevisionSpec, progress: Callable[[LoadProgress], None], given_up: threading.Event
    ) -> Residence:
        with self._load_turn:
            residence = self._residences.get(spec.revision)
            if residence is None:
                served = load(spec, progress, self.config)
                if given_up.is_set():
                    served.prompts.close()
                    raise LoadGivenUp
                residence = Residence(served, EngineThread(served.engine, self._turns))
                self._residences[spec.revision] = residence
            return residence

    def _find(self, revision: str) -> Residence:
        if self._is_draining:
            raise NotReady("the server is shutting down")
        residence = self._residences.get(revision)
        if residence is None:
            if revision in self._loading:
                raise NotReady(f"revision {revision} is loading", retry_after_seconds=5.0)
            raise UnknownRevision(f"no revision {revision} is served here")
        if residence.is_leaving:
            raise NotReady(f"revision {revision} is being unloaded")
        if not residence.thread.is_alive:
            raise NotReady(f"revision {revision}: {residence.thread.stats.error}", retry_after_seconds=10.0)
        return residence

    def _count_open(self, revision: str, change: int) -> None:
        with self._rest:
            self._num_open[revision] = self._num_open.get(revision, 0) + change
            self._rest.notify_all()

    def _wait_for_rest(self, revision: str | None, seconds: float | None) -> bool:
        """Block until no request of the revision (None: of any) is open; False: time is up."""

        def is_at_rest() -> bool:
            counts = self._num_open
            return not (sum(counts.values()) if revision is None else counts.get(revision, 0))

        with self._rest:
            return self._rest.wait_for(is_at_rest, seconds)


def _end(leaving: list[Residence]) -> None:
    """Stops those who leave; nobody but the list may hold them."""
    while leaving:
        leaving.pop().stop()
    give_back()


async def _in_a_thread_that_ends(work: Callable[[], T]) -> T:
    """Run what computes with torch.

    OpenMP keeps workers for each thread that ever computed, and lets all of them sleep between operations
    once there are more than cores: decode was twice as slow then.
    """
    threads = ThreadPoolExecutor(1, thread_name_prefix="load")
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, work)
    finally:
        threads.shutdown(wait=False)
