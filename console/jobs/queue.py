"""The queue: rows that wait, oldest first."""

from __future__ import annotations

from console.jobs.models import Job
from console.jobs.transitions import take


def next_job(where: Job.Where) -> Job | None:
    """Take the oldest queued job of a place; None where none waits."""
    queued = Job.objects.filter(state=Job.State.QUEUED, where=where).order_by("created_at")
    for pk in queued.values_list("pk", flat=True)[:10]:
        if (job := take(pk)) is not None:
            return job
    return None
