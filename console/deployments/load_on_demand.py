"""A request for a revision that is not in memory asks for it and waits; many that wait cause one load."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

from django.db import transaction

from console.audit.actor import Actor
from console.audit.write import write
from console.catalog.failure import told
from console.catalog.models import Deployment
from console.catalog.reconcile_signal import signal_reconciler
from console.database.async_read import read
from console.environment import environment
from inference import client
from inference.protocol.errors import NotReady, RequestRejected, UnknownRevision

LOOK_SECONDS = 0.05  # between two looks at what is loaded: in memory
ASK_SECONDS = 0.5  # between two looks at why it is not yet: in the database
GUESSED_LOAD_SECONDS = 10.0  # of a revision that was never loaded
ACTOR = Actor.system("reconciler")


class NotServed(RequestRejected):
    """Another model is forced: it alone is served."""

    code = "model_not_served"


class StillLoading(NotReady):
    """It did not come in the time that a request waits."""

    code = "model_loading"


@dataclass
class SharedLoadState:
    """What requests and the reconciler of this process tell each other."""

    used_at: dict[str, float] = field(default_factory=dict)  # revision -> Unix time of its last request
    forced: str | None = None  # the revision that is served alone, as the reconciler read it last


SHARED_LOAD_STATE = SharedLoadState()


@dataclass(frozen=True, slots=True)
class DeploymentView:
    """A deployment as a waiting request sees it."""

    state: str
    reason: str
    load_seconds: float | None
    is_gone: bool
    failure: str = ""  # the class of why it failed


class Waiting:
    """The requests that wait for one revision share its only task."""

    def __init__(self, revision: str) -> None:
        self.num_waiting = 0
        self.load_seconds = GUESSED_LOAD_SECONDS
        self.task = asyncio.create_task(_until_loaded(revision, self), name=f"wake {revision}")


_waiting: dict[str, Waiting] = {}


async def wake(revision: str) -> bool:
    """Return once the revision is in memory, and note that it is used. True: it had to be waited for.

    Raises `NotServed` (400) while another one is forced, and after WAKE_SECONDS `StillLoading` (503).
    """
    SHARED_LOAD_STATE.used_at[revision] = time.time()
    if SHARED_LOAD_STATE.forced is not None and SHARED_LOAD_STATE.forced != revision:
        raise NotServed(f"only {SHARED_LOAD_STATE.forced} is served for now", param="model")
    if is_loaded(revision):
        return False
    await _wait(revision)
    SHARED_LOAD_STATE.used_at[revision] = time.time()
    return True


def is_loaded(revision: str) -> bool:
    return any(card.revision == revision for card in client.current().models())


async def _wait(revision: str) -> None:
    waiting = _waiting.get(revision)
    if waiting is None or waiting.task.done():
        waiting = _waiting[revision] = Waiting(revision)
    waiting.num_waiting += 1
    try:
        async with asyncio.timeout(environment().wake_seconds):
            await asyncio.shield(waiting.task)
    except TimeoutError:
        seconds = waiting.load_seconds
        raise StillLoading(f"revision {revision} is loading", retry_after_seconds=seconds) from None
    finally:
        waiting.num_waiting -= 1
        if not waiting.num_waiting:
            waiting.task.cancel()
            if _waiting.get(revision) is waiting:
                del _waiting[revision]


async def _until_loaded(revision: str, waiting: Waiting) -> None:
    """Ask for it, then look on. Raises why it will not come."""
    view = await read(lambda: ask_for(revision))
    asked_at = time.monotonic()
    while True:
        waiting.load_seconds = view.load_seconds or GUESSED_LOAD_SECONDS
        if is_loaded(revision):
            return
        if view.is_gone:
            raise UnknownRevision(f"the files of revision {revision} have been deleted")
        if view.state == Deployment.State.FAILED:
            why = told(view.failure)
            raise NotReady(f"revision {revision} could not be loaded: {why}", retry_after_seconds=30.0)
        if client.current().stats().is_draining:
            raise NotReady("the server is shutting down")
        await asyncio.sleep(LOOK_SECONDS)
        if time.monotonic() - asked_at > ASK_SECONDS:
            asked_at, view = time.monotonic(), await read(lambda: _look_at(revision))


@transaction.atomic
def ask_for(revision: str) -> DeploymentView:
    asleep = Deployment.objects.filter(revision_id=revision, files_deleted_at=None)
    if asleep.filter(wanted=Deployment.Wanted.UNLOADED).update(wanted=Deployment.Wanted.LOADED):
        write(actor=ACTOR, action="deployment.load", target=revision, detail={"reason": "a request came"})
        signal_reconciler()
    return _look_at(revision)


def _look_at(revision: str) -> DeploymentView:
    deployment = Deployment.objects.filter(revision_id=revision).first()
    if deployment is None:
        return DeploymentView(Deployment.State.ABSENT, "", None, is_gone=True)
    is_gone = deployment.files_deleted_at is not None
    return DeploymentView(
        deployment.state, deployment.reason, deployment.load_seconds, is_gone, deployment.failure
    )
