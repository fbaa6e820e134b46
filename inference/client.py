"""The engine's door: one interface, several placements, one of them configured per process."""

from __future__ import annotations

import asyncio
import gc
import importlib
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager

from inference import transformers_index
from inference.config import PlacementConfig, RevisionSpec
from inference.protocol.events import Event
from inference.protocol.requests import GenerateRequest, Prepared, PrepareRequest
from inference.protocol.stats import Device, LoadProgress, ModelCard, Stats

Receive = Callable[[Event | Exception], None]
LetGo = Callable[[], object]

PLACEMENTS = {"inprocess": "inference.placements.inprocess.placement.InProcess"}


class EngineClient(ABC):
    """What everything outside `inference` may ask of an engine, wherever it runs.

    Every method is safe to call from any asyncio loop of this process. `stats`, `abort` and
    `extend` never wait for the engine.
    """

    def __init__(self, config: PlacementConfig) -> None:
        self.config = config

    @abstractmethod
    async def start(self) -> None:
        """Take the device and the data directory; idempotent. Raises `RuntimeError` if they are taken."""

    @abstractmethod
    def device(self) -> Device:
        """Where models are loaded. Raises `RuntimeError` before `start`."""

    @abstractmethod
    async def load(self, spec: RevisionSpec, progress: Callable[[LoadProgress], None]) -> ModelCard:
        """Load, plan memory and warm up; then the revision is served. Raises `Refusal` with the reason.

        Cancelled, it is not served; what was read of it is let go of as soon as that can be.
        """

    @abstractmethod
    async def unload(self, revision: str) -> None:
        """Let requests in flight finish, then free the revision's memory. Unknown ones are ignored."""

    @abstractmethod
    def models(self) -> tuple[ModelCard, ...]:
        """The revisions that are served now."""

    @abstractmethod
    async def prepare(self, request: PrepareRequest) -> Prepared:
        """Template and tokenize off the event loop. Raises `Refusal` (empty, too long, unknown id)."""

    @abstractmethod
    def generate(self, request: GenerateRequest) -> AsyncIterator[Event]:
        """Yield `Delta`s, then exactly one `Finish`. Raises `Refusal` at the first step, before queueing.

        Closing or cancelling the iterator aborts the request and frees its blocks. A slow reader gets
        merged deltas; nothing is dropped and memory stays bounded by the output itself.
        """

    def follow(self, request: GenerateRequest, receive: Receive) -> LetGo:
        """`generate` without a task and an iterator between, for who follows many requests at once.

        `receive` is called on the running loop, and never before this returns: with every event as it comes,
        the `Finish` last, or with what `generate` would have raised. It must not raise, and merges what its
        own reader is too slow for. Calling what is returned ends it: nothing more is received, and what has
        not finished is aborted.
        """
        return asyncio.get_running_loop().create_task(_hand_over(self.generate(request), receive)).cancel

    @abstractmethod
    def extend(self, request_id: str, *, allowance: int, is_final: bool) -> None:
        """Grant output tokens up to `allowance`; `is_final`: at it the request ends (BUDGET)."""

    @abstractmethod
    def abort(self, request_id: str) -> None:
        """Cancel a request; its stream still yields its `Finish`. Unknown ids are ignored."""

    @abstractmethod
    def abort_owner(self, owner_id: str) -> None:
        """Cancel all requests of an owner."""

    @abstractmethod
    def stats(self) -> Stats:
        """The last snapshot; never waits."""

    @abstractmethod
    async def drain(self, deadline_seconds: float) -> None:
        """Refuse new requests, let those in flight finish, cancel what is left at the deadline."""

    @abstractmethod
    async def stop(self) -> None:
        """Free everything. After it only `start` may be called."""


async def _hand_over(events: AsyncIterator[Event], receive: Receive) -> None:
    try:
        async for event in events:
            receive(event)
    except Exception as error:
        receive(error)


_current: EngineClient | None = None


def configure(placement: str, config: PlacementConfig) -> EngineClient:
    """Make `placement` (a name of PLACEMENTS or a dotted path to a class) the engine of this process."""
    global _current  # noqa: PLW0603 - the one registry of the process, written once at start
    path = PLACEMENTS.get(placement, placement)
    module_name, _, class_name = path.rpartition(".")
    if not module_name:
        known = ", ".join(sorted(PLACEMENTS))
        raise ValueError(f"ENGINE={placement!r} is neither one of {known} nor a dotted path to a class")
    transformers_index.install(config.data_dir / transformers_index.FILE)
    try:
        with _without_collector():
            module = importlib.import_module(module_name)
        engine_class = getattr(module, class_name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"ENGINE={placement!r} cannot be imported: {error}") from error
    client: EngineClient = engine_class(config)
    _current = client
    return client


@contextmanager
def _without_collector() -> Iterator[None]:
    """What is imported stays: to look through it for garbage, now and ever again, only takes time.

    Of the imports of torch and transformers it is a seventh.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


def current() -> EngineClient:
    """The configured engine. Raises `RuntimeError` where none was configured."""
    if _current is None:
        raise RuntimeError("no engine is configured in this process: call inference.client.configure first")
    return _current
