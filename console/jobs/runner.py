"""The runner of `serve`: a thread for the engine's jobs, and one for the others, which runs them or tells
Celery of them.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from django.db import Error, connection

from console.environment import environment
from console.jobs.celery_notify import notify_workers
from console.jobs.execute import hand_over_all, run
from console.jobs.job_context import LEAVING
from console.jobs.models import Job
from console.jobs.queue import next_job

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks at the queue, for words that were lost
LEAVE_SECONDS = 5.0  # for work to notice that it is to end


class Runner:
    """Runs queued jobs one after another, per place. Idle until started."""

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._wishes = 0
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Take up work from now on; idempotent."""
        if self._threads:
            return
        LEAVING.clear()
        turns: dict[Job.Where, Callable[[], object]] = {
            Job.Where.ENGINE: partial(_run_next, Job.Where.ENGINE),
            Job.Where.WORKER: notify_workers
            if environment().redis_url
            else partial(_run_next, Job.Where.WORKER),
        }
        for where, turn in turns.items():
            thread = threading.Thread(
                target=self._loop, args=(turn,), name=f"jobs {where.value}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def wake(self) -> bool:
        """Look at the queue now. False where nothing was started that would look."""
        with self._wake:
            self._wishes += 1
            self._wake.notify_all()
        return bool(self._threads)

    def leave(self) -> None:
        """Take up nothing more, and let what runs end at its next word. Does not wait."""
        LEAVING.set()
        self.wake()

    def stop(self) -> None:
        """Leave, and hand over what runs to the next process. Blocks for seconds at most."""
        self.leave()
        deadline = time.monotonic() + LEAVE_SECONDS
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        if self._threads:
            try:
                hand_over_all()
            except Error:
                logger.exception("what still runs is left to recovery")
            finally:
                connection.close()
        self._threads = []

    def _loop(self, turn: Callable[[], object]) -> None:
        seen = -1
        while not LEAVING.is_set():
            seen = self._wishes
            try:
                if turn():
                    continue
            except Error:
                logger.exception("the job queue cannot be read")
            connection.close()
            with self._wake:
                self._wake.wait_for(lambda seen=seen: self._wishes != seen, LOOK_SECONDS)  # type: ignore[misc]


def _run_next(where: Job.Where) -> bool:
    job = next_job(where)
    if job is not None:
        run(job)
    return job is not None


RUNNER = Runner()
