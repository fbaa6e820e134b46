"""How a queued job gets to whoever runs it: a thread of `serve`, or Celery where Redis is configured."""

from __future__ import annotations

from console.environment import environment
from console.jobs.models import Job
from console.jobs.runner import RUNNER


def dispatch(job: Job) -> None:
    """Let a queued job be taken up now. A lost word costs time only: the runner looks by itself, too."""
    if job.where == Job.Where.WORKER and environment().redis_url:
        from console.jobs.tasks import run_job

        run_job.delay(job.pk)
    else:
        RUNNER.wake()
