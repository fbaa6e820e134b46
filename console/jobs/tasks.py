"""The one Celery task: run the oldest queued job."""

from __future__ import annotations

from console.celery import app
from console.jobs.announce import RUN_NEXT
from console.jobs.models import Job
from console.jobs.queue import next_job
from console.jobs.run import run


@app.task(name=RUN_NEXT)
def run_next() -> None:
    """Run one job, or none where none waits any more."""
    job = next_job(Job.Where.WORKER)
    if job is not None:
        run(job)
