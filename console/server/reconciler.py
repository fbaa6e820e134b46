"""Brings about what is wanted in memory: looks, decides, lets the engine load and unload, writes down what it
found. A thread of `serve`, in one server at a time; whoever changes something signals it.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from django.db import Error, connection
from django.utils import timezone

from console.catalog.actions import spec
from console.catalog.failure import Failure, failure_of, reason_of
from console.catalog.models import Deployment, Revision
from console.catalog.reconcile_signal import CHANGED
from console.deployments import observed_state, reconciler_lease
from console.deployments.actions import rest
from console.deployments.load_on_demand import SHARED_LOAD_STATE, ask_for
from console.deployments.memory_budget import allowance, budget
from console.deployments.planner import Load, Step, Unload, Wait, decide
from console.deployments.snapshot import CatalogSnapshot, Held, SnapshotReader
from console.deployments.startup_checks import STARTUP_CHECKS
from console.gateway import drain
from console.jobs.recovery import recover
from console.rollouts.tick import tick as tick_rollouts
from inference import client
from inference.config import RevisionSpec
from inference.protocol.stats import LoadProgress, ModelCard
from monitoring import health
from monitoring.collect import name_revision

logger = logging.getLogger(__name__)

T = TypeVar("T")

LOOK_SECONDS = 0.5
USED_SECONDS = 5.0  # between two notes of when revisions were last used
RECOVER_SECONDS = 5.0
FIRST_RETRY_SECONDS, LAST_RETRY_SECONDS = 30.0, 600.0


@dataclass
class Loading:
    """The one load that is under way."""

    revision: str
    need: int
    future: Future[ModelCard]
    progress: LoadProgress | None = None
    began: float = field(default_factory=time.monotonic)


@dataclass
class Leaving:
    """A revision that is being unloaded."""

    step: Unload
    bytes: int
    future: Future[bool]


@dataclass(frozen=True, slots=True)
class Report:
    """Who is told what happens; the row says the same. Called from the event loop and from the reconciler."""

    progress: Callable[[LoadProgress], None]
    ready: Callable[[ModelCard], None]
    failed: Callable[[str, str], None]  # revision, reason


class Reconciler:
    """Its thread alone touches its state and writes the rows; the engine is called on the event loop."""

    _loop: asyncio.AbstractEventLoop  # the one that serves
    _report: Report

    def __init__(self) -> None:
        self._thread: threading.Thread | None = None
        self._looker = SnapshotReader(retry_seconds)
        self._loading: Loading | None = None
        self._leaving: dict[str, Leaving] = {}
        self._failures: dict[str, int] = {}  # revision -> failed loads in a row
        self._used: dict[str, float] = {}  # what the rows say
        self._used_at = self._recovered_at = 0.0
        self._is_stopping = threading.Event()
        self.is_settled = threading.Event()  # nothing that routes lead to is on its way any more
        self.is_elsewhere = threading.Event()  # another server does this

    def start(self, loop: asyncio.AbstractEventLoop, report: Report) -> None:
        self._loop, self._report = loop, report
        self._is_stopping.clear()
        self._thread = threading.Thread(target=self._run, name="reconciler", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Begin nothing more; a load under way is given up. What is in memory stays."""
        self._is_stopping.set()
        CHANGED.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        try:
            while not self._is_stopping.is_set():
                CHANGED.clear()
                self._look()
                CHANGED.wait(LOOK_SECONDS)
            self._leave()
        finally:
            connection.close()

    def _look(self) -> None:
        try:
            self.tick()
        except Error as error:
            logger.error("the deployments cannot be read or written: %s", error)
            connection.close()
        except Exception:
            logger.exception("the reconciler failed, and tries again")

    def _leave(self) -> None:
        try:
            if self._loading is not None:
                self._loading.future.cancel()
                observed_state.absent(self._loading.revision)
            reconciler_lease.release()
        except Error:
            logger.exception("the lease could not be given back; it ends with this process")

    def tick(self) -> None:
        """One look at the whole, and what follows from it."""
        held = reconciler_lease.hold(client.current().devices()[0])
        if held is None:
            self.is_elsewhere.set()
            return
        self.is_elsewhere.clear()
        if not held:
            observed_state.reset()
        self._collect()
        snapshot = self._look_around()
        SHARED_LOAD_STATE.forced = snapshot.forced
        steps = decide(
            snapshot.wishes, snapshot.holdings, budget(), snapshot.now, snapshot.in_flight, snapshot.routes
        )
        for step in steps:
            self._take(step, snapshot)
        if self._loading is None or not snapshot.has_traffic(self._loading.revision):
            self.is_settled.set()
        self._note_use()
        self._others()

    def _look_around(self) -> CatalogSnapshot:
        engine = client.current()
        stats, cards = engine.stats(), engine.models()
        dead = {one.revision: one.error for one in stats.revisions if not one.is_alive}
        held = Held(
            cards=cards,
            loading={self._loading.revision: self._loading.need} if self._loading else {},
            leaving={revision: leaving.bytes for revision, leaving in self._leaving.items()},
            in_flight=drain.requests_by_revision(stats),
            used_at=dict(SHARED_LOAD_STATE.used_at),
            dead=frozenset(dead),
        )
        snapshot = self._looker.look(held, failures=self._failures)
        for revision, error in dead.items():
            observed_state.failed(revision, error, Failure.ERROR)
        for card in cards:
            is_told = snapshot.states.get(card.revision) in (Deployment.State.READY, None)
            if not is_told and card.revision not in held.leaving:
                observed_state.ready(card, load_seconds=None)
        health.sleepers = snapshot.sleepers
        for revision, name in snapshot.names.items():
            name_revision(revision=revision, model=name)
        return snapshot

    def _take(self, step: Step, snapshot: CatalogSnapshot) -> None:
        match step:
            case Load(revision):
                self._begin_load(revision, snapshot.need_of(revision))
            case Unload(revision):
                size = next(one.bytes for one in snapshot.holdings if one.revision == revision)
                self._begin_unload(step, size)
            case Wait(revision, reason):
                observed_state.waiting(revision, reason)

    def _begin_load(self, revision: str, need: int) -> None:
        row = Revision.objects.get(pk=revision)
        asked = replace(spec(row), memory_bytes=allowance(row))
        observed_state.loading(revision)
        loading = self._loading = Loading(revision, need, Future())
        loading.future = self._on_the_loop(_load(row, asked, partial(self._progress, loading)))

    def _begin_unload(self, step: Unload, size: int) -> None:
        if step.is_rest and not rest(revision=step.revision, reason=step.reason):
            return  # somebody has changed it meanwhile
        observed_state.unloading(step.revision, step.reason)
        self._leaving[step.revision] = Leaving(step, size, self._on_the_loop(_unload(step.revision)))

    def _on_the_loop(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        future.add_done_callback(lambda _: CHANGED.set())
        return future

    def _progress(self, loading: Loading, news: LoadProgress) -> None:
        """On the event loop; the row is written by the next tick."""
        loading.progress = news
        self._report.progress(news)

    def _collect(self) -> None:
        """Write down what has ended since the last look, and how far the load has come."""
        for revision, leaving in tuple(self._leaving.items()):
            if leaving.future.done():
                del self._leaving[revision]
                _note_left(leaving)
        loading = self._loading
        if loading is None:
            return
        if loading.future.done():
            self._loading = None
            self._note_loaded(loading)
        elif (news := loading.progress) is not None:
            observed_state.loaded_so_far(loading.revision, stage=news.stage, fraction=news.fraction)

    def _note_loaded(self, loading: Loading) -> None:
        revision, error = loading.revision, loading.future.exception()
        if error is None:
            card = loading.future.result()
            self._failures.pop(revision, None)
            observed_state.ready(card, load_seconds=time.monotonic() - loading.began)
            self._report.ready(card)
            return
        self._failures[revision] = self._failures.get(revision, 0) + 1
        reason, failure = reason_of(error), failure_of(error)
        observed_state.failed(revision, reason, failure)
        if failure is Failure.ERROR:
            logger.error("revision %s could not be loaded", revision, exc_info=error)
        self._report.failed(revision, reason)

    def _note_use(self) -> None:
        now = time.monotonic()
        if now - self._used_at > USED_SECONDS:
            self._used_at, used = now, dict(SHARED_LOAD_STATE.used_at)
            observed_state.used({one: at for one, at in used.items() if self._used.get(one) != at})
            self._used = used

    def _others(self) -> None:
        """What else exactly one server does."""
        tick_rollouts(timezone.now())
        now = time.monotonic()
        if now - self._recovered_at > RECOVER_SECONDS:
            self._recovered_at = now
            recover()


def _note_left(leaving: Leaving) -> None:
    revision = leaving.step.revision
    if error := leaving.future.exception():
        logger.error("revision %s could not be unloaded", revision, exc_info=error)
    elif leaving.future.result():
        observed_state.absent(revision, leaving.step.reason)
    elif leaving.step.is_rest:
        ask_for(revision)  # a request came meanwhile: it is not idle


async def _load(row: Revision, asked: RevisionSpec, progress: Callable[[LoadProgress], None]) -> ModelCard:
    await asyncio.to_thread(STARTUP_CHECKS.check, row)
    return await client.current().load(asked, progress)


async def _unload(revision: str) -> bool:
    """False: a request came meanwhile, so it stays. Nothing comes between the check and the engine's word."""
    if drain.requests_by_revision(client.current().stats()).get(revision):
        return False
    await client.current().unload(revision)
    return True


def retry_seconds(num_failures: int) -> float:
    """How long after the last of several failed loads in a row the next one is tried."""
    return min(LAST_RETRY_SECONDS, FIRST_RETRY_SECONDS * 2.0 ** min(10, max(0, num_failures - 1)))


RECONCILER = Reconciler()
