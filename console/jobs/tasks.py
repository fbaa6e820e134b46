"""The one Celery task: run the oldest queued job."""

from __future__ import annotations

from console.jobs.celery_app import app
from console.jobs.celery_notify import RUN_NEXT
from console.jobs.execute import run
from console.jobs.models import Job
from console.jobs.queue import next_job


@app.task(name=RUN_NEXT)
def run_next() -> None:
    """Run one job, or none where none waits any more."""
    job = next_job(Job.Where.WORKER)
    if job is not None:
        run(job)
