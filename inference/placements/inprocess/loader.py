"""Loads revisions into this process, one at a time: each plans by the memory that is free."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from inference.config import PlacementConfig, RevisionSpec
from inference.host import load
from inference.placements.inprocess.engine_loop import EngineLoop
from inference.placements.inprocess.loaded_revisions import LoadedRevision, LoadedRevisions
from inference.placements.inprocess.threaded_engine import ThreadedEngine
from inference.protocol.stats import LoadProgress

T = TypeVar("T")


class LoadGivenUp(Exception):
    """Nobody waits for this load any more."""


class Loader:
    """Puts what it loads into `revisions`, its engine into one loop with the others'."""

    def __init__(self, config: PlacementConfig, revisions: LoadedRevisions) -> None:
        self._config = config
        self._revisions = revisions
        self._engine_loop = EngineLoop()
        self._turn = threading.Lock()

    async def load(self, spec: RevisionSpec, progress: Callable[[LoadProgress], None]) -> LoadedRevision:
        """Cancelled, it stops at its next report of progress, and the revision is not served."""
        loop = asyncio.get_running_loop()
        given_up = threading.Event()

        def report(news: LoadProgress) -> None:
            if given_up.is_set():
                raise LoadGivenUp
            loop.call_soon_threadsafe(progress, news)

        with self._revisions.loading(spec.revision):
            try:
                return await run_in_new_thread(partial(self._load, spec, report, given_up))
            except asyncio.CancelledError:
                given_up.set()
                raise

    def _load(
        self, spec: RevisionSpec, progress: Callable[[LoadProgress], None], given_up: threading.Event
    ) -> LoadedRevision:
        with self._turn:
            loaded = self._revisions.get(spec.revision)
            if loaded is None:
                served = load(spec, progress, self._config)
                if given_up.is_set():
                    served.prompts.close()
                    raise LoadGivenUp
                loaded = LoadedRevision(served, ThreadedEngine(served.engine, self._engine_loop))
                self._revisions.add(spec.revision, loaded)
            return loaded


async def run_in_new_thread(work: Callable[[], T]) -> T:
    """Run what computes with torch in a thread that ends with it.

    OpenMP keeps workers for each thread that ever computed, and lets all of them sleep between operations
    once there are more than cores: decode was twice as slow then.
    """
    threads = ThreadPoolExecutor(1, thread_name_prefix="load")
    try:
        return await asyncio.get_running_loop().run_in_executor(threads, work)
    finally:
        threads.shutdown(wait=False)
