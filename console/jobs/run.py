"""Runs one job to its end, wherever that is: takes the row, relays progress, writes how it ended."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.db import transaction
from django.utils import timezone

from console.audit.write import write
from console.jobs.kinds import KINDS, Cancelled, JobFailed
from console.jobs.models import Job, JobLine
from console.lease import own_lease
from console.storable import storable

logger = logging.getLogger(__name__)

WRITE_SECONDS = 0.3  # between two writes of progress
ALIVE_SECONDS = 5.0  # between two signs of life of the process that runs a job
MAX_LINES = 1000  # of a job's log


class RunningJob:
    """The `Work` that a kind's function gets."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._written_at = 0.0
        self._num_lines = 0

    @property
    def job_id(self) -> str:
        return self._job.pk

    @property
    def actor(self) -> str:
        return self._job.actor

    @property
    def ip(self) -> str:
        return self._job.ip

    @property
    def arguments(self) -> Mapping[str, Any]:
        return dict(self._job.arguments)

    def progress(self, stage: str, fraction: float) -> None:
        job, now = self._job, time.monotonic()
        is_news = stage != job.stage
        if not is_news and now - self._written_at < WRITE_SECONDS:
            return
        self._written_at = now
        job.stage, job.fraction = storable(stage, length=200), min(1.0, max(0.0, fraction))
        mine = Job.objects.filter(pk=job.pk, server=job.server, state=Job.State.RUNNING)
        if not mine.update(stage=job.stage, fraction=job.fraction, alive_at=timezone.now()):
            raise Cancelled  # another process has taken it over
        if mine.filter(is_cancel_asked=True).exists():
            raise Cancelled
        if is_news:
            self.log(stage)

    def log(self, text: str) -> None:
        self._num_lines += 1
        if self._num_lines <= MAX_LINES:
            JobLine.objects.create(job=self._job, text=storable(text, length=1000))


def take(pk: str) -> Job | None:
    """Make a queued job this process's own; None where somebody else was quicker or it has ended."""
    taken = Job.objects.filter(pk=pk, state=Job.State.QUEUED).update(
        state=Job.State.RUNNING,
        server=own_lease().server,
        started_at=timezone.now(),
        alive_at=timezone.now(),
    )
    if not taken:
        return None
    job = Job.objects.get(pk=pk)
    job.num_starts += 1
    job.save(update_fields=["num_starts"])
    return job


def run(job: Job) -> None:
    """Do the work of a job that was taken. Whatever happens, the row says how it ended."""
    stop = threading.Event()
    pulse = threading.Thread(target=_pulse, args=(job.pk, stop), name=f"pulse {job.pk}", daemon=True)
    pulse.start()
    try:
        result = KINDS[job.kind].function(RunningJob(job))
    except Cancelled:
        _end(job, Job.State.CANCELLED)
    except JobFailed as failure:
        _end(job, Job.State.FAILED, error_code=failure.code, error=str(failure))
    except Exception as error:
        logger.exception("%s failed", job.pk)
        _end(job, Job.State.FAILED, error_code="internal_error", error=f"{type(error).__name__}: {error}")
    else:
        _end(job, Job.State.DONE, result=result)
    finally:
        stop.set()
        pulse.join()


@transaction.atomic
def _end(
    job: Job,
    state: Job.State,
    *,
    error_code: str = "",
    error: str = "",
    result: Mapping[str, Any] | None = None,
) -> None:
    locked = Job.objects.select_for_update().filter(pk=job.pk, server=job.server, state=Job.State.RUNNING)
    mine = locked.first()
    if mine is None:
        return  # another process has taken it over, or it was ended for us
    mine.end(state, error_code=error_code, error=storable(error, length=4000))
    mine.result = dict(result or {})
    if state == Job.State.DONE:
        mine.fraction = 1.0
    mine.save()
    detail = {"kind": mine.kind, "subject": mine.subject, "error_code": error_code}
    write(actor=mine.actor, action=f"job.{state.value}", target=mine.pk, detail=detail, ip=mine.ip)


def _pulse(pk: str, stop: threading.Event) -> None:
    from django.db import connection

    try:
        while not stop.wait(ALIVE_SECONDS):
            Job.objects.filter(pk=pk, state=Job.State.RUNNING).update(alive_at=timezone.now())
    finally:
        connection.close()


def stale_before() -> Any:
    """A running job of an unknown process that has been silent since before this is taken to be dead."""
    return timezone.now() - timedelta(seconds=6 * ALIVE_SECONDS)
