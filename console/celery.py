"""The Celery application: `celery -A console.celery worker` runs jobs where REDIS_URL is set."""

from __future__ import annotations

from celery import Celery

from console.environment import environment, name_settings

name_settings()
app = Celery("pilothouse")
app.conf.update(
    broker_url=environment().redis_url or None,
    task_serializer="json",
    accept_content=["json"],
    task_acks_late=True,  # a word that a dying worker had is given to another
    task_ignore_result=True,  # the job's row is the truth
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)
app.autodiscover_tasks(["console.jobs"])
