"""What a process that died left behind: its jobs are begun again, or end."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import datetime, timedelta

from django.utils import timezone
from django.utils.translation import gettext_noop

from console.database.process_lease import is_running, own_lease
from console.jobs.celery_notify import notify_workers
from console.jobs.job_context import ALIVE_SECONDS
from console.jobs.models import Job
from console.jobs.registry import MAX_DEATHS
from console.jobs.transitions import end, queue_again, this_run

logger = logging.getLogger(__name__)

BEGUN_AGAIN = gettext_noop("The process that ran it died; it is begun again.")
GIVEN_UP = "The process that ran it died {number} times. The log shows how far it came each time."


def recover() -> int:
    """Bring back or end the jobs of dead processes; how many there were. May run in several processes."""
    recovered = [_bring_back(job) for job in list(abandoned())]
    notify_workers()
    if num := sum(recovered):
        logger.warning("recovered %d jobs of a process that died", num)
    return num


def abandoned() -> Iterator[Job]:
    """Running jobs of processes that are known to be dead, or unknown here and silent for long."""
    running = Job.objects.filter(state=Job.State.RUNNING)
    for server in list(running.values_list("server", flat=True).distinct()):
        is_alive = True if server == own_lease().server else is_running(server) if server else None
        if is_alive is None:
            yield from running.filter(server=server, alive_at__lt=stale_before())
        elif not is_alive:
            yield from running.filter(server=server)


def stale_before() -> datetime:
    """A running job of an unknown process that has been silent since before this is taken to be dead."""
    return timezone.now() - timedelta(seconds=6 * ALIVE_SECONDS)


def _bring_back(job: Job) -> bool:
    mine, num_deaths = this_run(job), job.num_deaths + 1
    if job.is_cancel_asked:
        return end(mine, job, Job.State.CANCELLED)
    if num_deaths < MAX_DEATHS:
        return queue_again(mine, job, because=BEGUN_AGAIN, num_deaths=num_deaths)
    error = GIVEN_UP.format(number=num_deaths)
    return end(mine, job, Job.State.FAILED, error_code="server_died", error=error)
