"""`EngineClient`, the interface to engines wherever they run, and the one client of this process."""

from __future__ import annotations

import asyncio
import importlib
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Callable

from inference import transformers_index
from inference.config import PlacementConfig, RevisionSpec
from inference.protocol.events import Event, Finish
from inference.protocol.requests import GenerateRequest, TokenizedPrompt, TokenizeRequest
from inference.protocol.stats import Capabilities, Device, LoadProgress, ModelCard, Stats

OnEvent = Callable[[Event | Exception], None]
Cancel = Callable[[], object]

ROUTER = "inference.placements.router"  # by name: placements build upon this module


class EngineClient(ABC):
    """What everything outside `inference` may ask of an engine, wherever it runs.

    Every method is safe to call from any asyncio loop of this process. `stats`, `abort` and
    `grant` never wait for the engine.
    """

    def __init__(self, config: PlacementConfig) -> None:
        self.config = config

    @abstractmethod
    async def start(self) -> None:
        """Take the device and the data directory; idempotent. Raises `RuntimeError` if they are taken."""

    @abstractmethod
    def devices(self) -> tuple[Device, ...]:
        """Where models are loaded, the default placement's first. Raises `RuntimeError` before `start`."""

    @abstractmethod
    async def load(self, spec: RevisionSpec, progress: Callable[[LoadProgress], None]) -> ModelCard:
        """Load, plan memory and warm up; then it is served. Raises `RequestRejected` with the reason.

        Cancelled, it is not served; what was read of it is let go of as soon as that can be.
        """

    @abstractmethod
    async def unload(self, revision: str) -> None:
        """Let requests in flight finish, then free the revision's memory. Unknown ones are ignored."""

    @abstractmethod
    def models(self) -> tuple[ModelCard, ...]:
        """The revisions that are served now."""

    def capabilities(self, revision: str) -> Capabilities:
        """What may be asked of a revision. Callers read these flags and look at no class."""
        return Capabilities()

    @abstractmethod
    async def tokenize(self, request: TokenizeRequest) -> TokenizedPrompt:
        """Apply the chat template and tokenize, off the event loop. Raises `RequestRejected`."""

    @abstractmethod
    def stream(self, request: GenerateRequest, on_event: OnEvent) -> Cancel:
        """Generate. `on_event` gets `Delta`s as they come, then one `Finish`; or else one `RequestRejected`.

        It is called on the running loop, never before this returns, and must not raise. Calling what is
        returned cancels the request: `on_event` gets nothing more. After the end it does nothing.
        """

    async def generate(self, request: GenerateRequest) -> AsyncGenerator[Event]:
        """`stream` as an iterator, which raises what rejects the request. Closing it cancels the request."""
        events = asyncio.Queue[Event | Exception]()
        cancel = self.stream(request, events.put_nowait)
        try:
            while True:
                event = await events.get()
                if isinstance(event, Exception):
                    raise event
                yield event
                if isinstance(event, Finish):
                    return
        finally:
            cancel()

    @abstractmethod
    def grant(self, request_id: str, *, granted_tokens: int, is_final: bool) -> None:
        """Grant output tokens up to `granted_tokens`; `is_final`: at it the request ends (BUDGET)."""

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


_current: EngineClient | None = None


def configure(placement: str, config: PlacementConfig) -> EngineClient:
    """Make the client of this process, whose default placement is `placement`: a name of
    `placements.registry`, or a dotted path to a class. Raises `ValueError` for what is neither.
    """
    global _current  # noqa: PLW0603 - the one registry of the process, written once at start
    transformers_index.install(config.data_dir / transformers_index.FILE)
    router = importlib.import_module(ROUTER)
    client: EngineClient = router.RoutingClient(config, default=placement)
    _current = client
    return client


def current() -> EngineClient:
    """The configured engine. Raises `RuntimeError` where none was configured."""
    if _current is None:
        raise RuntimeError("no engine is configured in this process: call inference.client.configure first")
    return _current
