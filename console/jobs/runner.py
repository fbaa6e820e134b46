"""The runner of `serve`: a thread for the engine's jobs, and one for the others where there is no Celery."""

from __future__ import annotations

import logging
import threading
from functools import partial

from django.db import Error, connection

from console.environment import environment
from console.jobs.models import Job
from console.jobs.run import run, take

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0  # between two looks at the queue, for words that were lost


class Runner:
    """Runs queued jobs one after another, per place. Idle until started."""

    def __init__(self) -> None:
        self._wake = threading.Condition()
        self._is_stopping = False
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Take up work from now on; idempotent."""
        if self._threads:
            return
        self._is_stopping = False
        places = [Job.Where.ENGINE] + ([] if environment().redis_url else [Job.Where.WORKER])
        for where in places:
            thread = threading.Thread(
                target=partial(self._loop, where), name=f"jobs {where.value}", daemon=True
            )
            thread.start()
            self._threads.append(thread)

    def wake(self) -> None:
        with self._wake:
            self._wake.notify_all()

    def stop(self) -> None:
        """Take up nothing more. What runs is left to end, or to be begun again by the next `serve`."""
        with self._wake:
            self._is_stopping = True
            self._wake.notify_all()
        self._threads = []

    def _loop(self, where: Job.Where) -> None:
        while not self._is_stopping:
            try:
                job = self._next(where)
                if job is not None:
                    run(job)
                    continue
            except Error:
                logger.exception("the job queue cannot be read")
            connection.close()
            with self._wake:
                self._wake.wait(LOOK_SECONDS)

    def _next(self, where: Job.Where) -> Job | None:
        queued = Job.objects.filter(state=Job.State.QUEUED, where=where).order_by("created_at")
        for pk in queued.values_list("pk", flat=True)[:10]:
            if (job := take(pk)) is not None:
                return job
        return None


RUNNER = Runner()
