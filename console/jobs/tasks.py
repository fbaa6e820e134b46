"""The one Celery task: run a job by its id."""

from __future__ import annotations

from console.celery import app
from console.jobs.run import run, take


@app.task(name="pilothouse.run_job")
def run_job(pk: str) -> None:
    """Run a queued job; a word about one that is taken or has ended changes nothing."""
    job = take(pk)
    if job is not None:
        run(job)
