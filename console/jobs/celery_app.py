"""The Celery application: `celery -A console.celery worker` runs jobs where REDIS_URL is set."""

from __future__ import annotations

from typing import Any

from celery import Celery
from celery.signals import celeryd_init, worker_init, worker_shutdown, worker_shutting_down

from console import trace_export
from console.environment import environment, name_settings
from monitoring.tracing import ExtraMissing

name_settings()
QUEUE = "pilothouse.jobs"
app = Celery("pilothouse")
app.conf.update(
    broker_url=environment().redis_url or None,
    broker_transport_options={"socket_connect_timeout": 2.0, "socket_timeout": 10.0},
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,  # Redis may be away for long
    task_default_queue=QUEUE,
    task_serializer="json",
    accept_content=["json"],
    task_acks_late=True,  # a word that a dying worker had is given to another
    task_ignore_result=True,  # the job's row is the truth
    worker_prefetch_multiplier=1,
    worker_pool="threads",  # heavy work is done by child processes; so one process is one lease
    worker_concurrency=1,
    worker_hijack_root_logger=False,  # Django's logging redacts keys
)
app.autodiscover_tasks(["console.jobs"])


@celeryd_init.connect
def check_broker(**kwargs: Any) -> None:
    """Celery would look for a broker of another kind, for ever."""
    if not environment().redis_url:
        raise SystemExit("REDIS_URL is not set. Without it the server runs jobs itself, and needs no worker.")


@worker_init.connect
def start_traces(**kwargs: Any) -> None:
    try:
        trace_export.start()
    except ExtraMissing as error:
        raise SystemExit(str(error)) from error


@worker_shutdown.connect
def stop_traces(**kwargs: Any) -> None:
    trace_export.stop()


@worker_shutting_down.connect
def leave(**kwargs: Any) -> None:
    """SIGTERM: what runs ends at its next word, and is queued for another worker."""
    from console.jobs.job_context import LEAVING  # Django is set up by now

    LEAVING.set()
