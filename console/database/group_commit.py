"""One thread that writes for many: work that waits at the same moment shares one transaction and one fsync.

Each piece of work runs under a savepoint of its own, so one that fails takes no other with it; its
waiter hears the result once the transaction is durable, never before.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

from django.db import Error, OperationalError, connection, transaction

logger = logging.getLogger(__name__)
T = TypeVar("T")

MAX_GROUP = 256
PATIENCE_SECONDS = 0.8  # of requests that have not begun: they are answered within a second
TRY_AGAIN_SECONDS = 1.0  # after a write that failed; until then the next ones are refused unseen
STUCK = "the database takes no writes: something else holds it, or the disk is slow"
NUM_ATTEMPTS = 6  # 0.05 + 0.1 + ... + 0.8 s of waiting, on top of the database's own lock timeout


class Unwritable(Exception):
    """The database takes no writes now; the message says why, as far as that is known. Waiting may help."""


class Closed(Exception):
    """The committer takes no more work: the server is shutting down."""


@dataclass(slots=True)
class Pending:
    """Work that waits for its turn. It may run more than once before it is durable, so it keeps no state."""

    work: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)
    is_patient: bool = True  # tried again where it fails
    is_abandoned: bool = False  # nobody waits for it any more: it is not done
    value: Any = None
    error: BaseException | None = None

    def deliver(self) -> None:
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.value)


class GroupCommit:
    """The committer. `submit` may be called from any thread; the transactions happen in one."""

    def __init__(self) -> None:
        self._waiting: deque[Pending] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._busy_since: float | None = None
        self._failure, self._failed_at = "", 0.0
        self.num_transactions = 0
        self.num_committed = 0

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Queue work that only writes to the database; its future is done when the commit is durable."""
        return self._queue(Pending(work)).future

    def _queue(self, pending: Pending) -> Pending:
        pending.future.set_running_or_notify_cancel()  # from here on it happens, whoever stops waiting
        with self._changed:
            if self._closed:
                raise Closed("the ledger is closed")
            self._waiting.append(pending)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
                self._thread.start()
            self._changed.notify_all()
        return pending

    async def admit(self, work: Callable[[], T], *, undo: Callable[[Future[T]], None] | None = None) -> T:
        """For what has not begun yet: done soon, or not at all, and then `Unwritable`. What is done all the
        same when nobody waits any more is handed to `undo`.
        """
        if (reason := self.trouble()) is not None:
            raise Unwritable(reason)
        pending = self._queue(Pending(work, is_patient=False))
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                return await asyncio.shield(asyncio.wrap_future(pending.future))
        except OperationalError as error:
            raise Unwritable(str(error)) from error
        except (TimeoutError, asyncio.CancelledError) as error:
            pending.is_abandoned = True
            if undo is not None:
                pending.future.add_done_callback(undo)
            if isinstance(error, TimeoutError):
                raise Unwritable(self.trouble() or STUCK) from error
            raise

    def trouble(self) -> str | None:
        """Why the next write would not be durable soon; None while nothing speaks against it."""
        since, now = self._busy_since, time.monotonic()
        if since is not None and now - since > PATIENCE_SECONDS:
            return STUCK
        if self._failure and now - self._failed_at < TRY_AGAIN_SECONDS:
            return self._failure
        return None

    async def commit(self, work: Callable[[], T]) -> T:
        """The same for asyncio. A waiter that is cancelled stops waiting; the work is done all the same."""
        return await asyncio.shield(asyncio.wrap_future(self.submit(work)))

    def close(self, *, timeout: float | None = 30.0) -> bool:
        """Write what waits, then stop and let go of the connection. True: everything is durable."""
        with self._changed:
            self._closed = True
            thread = self._thread
            self._changed.notify_all()
        if thread is not None:
            thread.join(timeout)
            return not thread.is_alive()
        return True

    def _run(self) -> None:
        try:
            while group := self._next_group():
                self._busy_since = time.monotonic()
                self._commit(group)
                self._busy_since = None
                for pending in group:
                    pending.deliver()
        finally:
            connection.close()

    def _next_group(self) -> list[Pending]:
        """All that waits, at most MAX_GROUP; nothing once closed and empty."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._closed)
            return [self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_GROUP))]

    def _commit(self, group: list[Pending]) -> None:
        try:
            self._transact(group)
        except Error as error:
            logger.warning("a group of %d did not commit; each is tried alone: %s", len(group), error)
            connection.close()
            for pending in group:
                self._commit_alone(pending)

    def _commit_alone(self, pending: Pending) -> None:
        if pending.is_abandoned:
            pending.error = Unwritable(STUCK)
            return None
        for attempt in range(NUM_ATTEMPTS):
            try:
                return self._transact([pending])
            except Error as error:
                connection.close()
                pending.value, pending.error = None, error
                if not isinstance(error, OperationalError):
                    return None
                self._failure, self._failed_at = str(error), time.monotonic()
                if not pending.is_patient or not is_passing(error):
                    return None
                time.sleep(0.05 * 2**attempt)
        logger.error("work did not commit after %d attempts: %s", NUM_ATTEMPTS, pending.error)
        return None

    def _transact(self, group: list[Pending]) -> None:
        with transaction.atomic(durable=True):
            for pending in group:
                attempt(pending)
        self._failure = ""
        self.num_transactions += 1
        self.num_committed += sum(pending.error is None for pending in group)


def attempt(pending: Pending) -> None:
    """Run one piece of work under its savepoint. Lost locks and connections concern the group: raised."""
    pending.value, pending.error = None, None
    if pending.is_abandoned:
        pending.error = Unwritable(STUCK)
        return
    try:
        with transaction.atomic():
            pending.value = pending.work()
    except OperationalError:
        raise
    except Exception as error:  # anything else is this waiter's alone, and is raised where they wait
        pending.error = error


def is_passing(error: OperationalError) -> bool:
    """Whether waiting a moment may help: a lock passes, a full disk stays full while this thread sleeps."""
    return not any(
        words in str(error) for words in ("disk is full", "No space left", "readonly", "read-only")
    )


@lru_cache(maxsize=1)
def ledger() -> GroupCommit:
    """The committer of this process, flushed when the process ends."""
    committer = GroupCommit()
    atexit.register(committer.close)
    return committer
