"""Runs one job that was taken to its end: done, failed, cancelled, or handed over where the process ends."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from django.db import Error, connection
from django.utils.translation import gettext_noop

from console.database.process_lease import own_lease
from console.jobs.job_context import LEAVING, RunningJob
from console.jobs.models import Job
from console.jobs.registry import KINDS, Cancelled, JobFailed
from console.jobs.transitions import end, queue_again, take, this_run
from monitoring import semconv, tracing

__all__ = ["hand_over_all", "run", "take"]

logger = logging.getLogger(__name__)

RETRY_SECONDS = 2.0  # until an end that could not be written is tried again
HANDED_OVER = gettext_noop("The server stopped; it is begun again.")


def run(job: Job) -> None:
    """Do the work. Whatever happens, the row says how it ended, or is queued for the next process.

    Needs rows that are committed: a thread of its own writes the progress.
    """
    work, stop = RunningJob(job), threading.Event()
    scribe = threading.Thread(target=work.write_on, args=(stop,), name=f"scribe {job.pk}", daemon=True)
    scribe.start()
    finish: Callable[[], object] = partial(
        _hand_over, job
    )  # what is raised below says otherwise, or the process is torn down
    try:
        finish = _outcome(job, work)
    finally:
        stop.set()
        scribe.join()
        _written(work.write)
        _written(finish)


def _outcome(job: Job, work: RunningJob) -> Callable[[], object]:
    """Call the kind's function; what is then to be written."""
    mine = this_run(job)
    failed = partial(end, mine, job, Job.State.FAILED)
    try:
        if (kind := KINDS.get(job.kind)) is None:
            raise JobFailed(f"This process knows no work called {job.kind}.", code="unknown_kind")
        about = {semconv.JOB_ID: job.pk, semconv.JOB_KIND: job.kind}
        with tracing.opened(f"job {job.kind}", kind="consumer", attributes=about):
            result: Mapping[str, Any] = kind.function(work)
        return partial(_done, job, result)
    except Cancelled:
        return partial(_hand_over, job) if LEAVING.is_set() else partial(end, mine, job, Job.State.CANCELLED)
    except Exception as error:
        if LEAVING.is_set():  # what it needed is being taken down
            return partial(_hand_over, job)
        if isinstance(error, JobFailed):
            return partial(failed, error_code=error.code, error=str(error))
        logger.exception("%s failed", job.pk)
        return partial(failed, error_code="internal_error", error=f"{type(error).__name__}: {error}")


def _done(job: Job, result: Mapping[str, Any]) -> None:
    try:
        end(this_run(job), job, Job.State.DONE, result=result)
    except (TypeError, ValueError) as error:  # no JSON
        end(this_run(job), job, Job.State.FAILED, error_code="internal_error", error=f"its result: {error}")


def _hand_over(job: Job) -> None:
    if not queue_again(this_run(job), job, because=HANDED_OVER, num_deaths=job.num_deaths):
        end(this_run(job), job, Job.State.CANCELLED)  # asked for meanwhile; or it has ended, and stays so


def hand_over_all() -> None:
    """Queue whatever this process still runs for the next one."""
    for job in Job.objects.filter(state=Job.State.RUNNING, server=own_lease().server):
        _hand_over(job)


def _written(write: Callable[[], object]) -> None:
    """Try until the database takes it: a job whose end is not written would run for ever.

    A process that ends meanwhile leaves it to recovery.
    """
    while True:
        try:
            write()
            return
        except Error:
            logger.warning("how a job ended cannot be written now", exc_info=True)
            connection.close()
            if LEAVING.wait(RETRY_SECONDS):
                return
