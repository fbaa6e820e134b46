"""Tells Celery that jobs wait. A word names no job: whoever hears one runs the oldest. So a word too many
harms nothing, and what Redis lost is made up for by counting.
"""

from __future__ import annotations

import logging
from typing import Any

from kombu import Connection
from kombu.exceptions import ChannelError, OperationalError

from console.environment import environment
from console.jobs.models import Job

logger = logging.getLogger(__name__)

RUN_NEXT = "pilothouse.run_next"
_unheard: list[str] = []  # why Redis could not be told, so that it is logged once


def notify_workers() -> None:
    """Let as many words wait as jobs do, where Celery runs them. Takes seconds where Redis is away."""
    if not environment().redis_url:
        return
    num_queued = Job.objects.filter(state=Job.State.QUEUED, where=Job.Where.WORKER).count()
    if not num_queued:
        return
    from console.jobs.celery_app import app

    try:
        with app.connection_for_write() as broker:
            broker.ensure_connection(max_retries=1, interval_start=0, timeout=2)
            for _ in range(num_queued - _num_waiting(broker)):
                app.send_task(RUN_NEXT, connection=broker, retry=False)
    except (OperationalError, OSError) as error:
        if not _unheard:
            logger.warning("Redis cannot be told of queued jobs; they are sent when it is back: %s", error)
        _unheard[:] = [str(error)]
    else:
        if _unheard:
            logger.info("Redis is back and told of %d queued jobs", num_queued)
        _unheard.clear()


def _num_waiting(broker: Connection) -> int:
    from console.jobs.celery_app import QUEUE

    channel: Any = broker.default_channel
    try:
        return int(channel.queue_declare(queue=QUEUE, passive=True).message_count)
    except ChannelError:  # no such queue yet
        return 0
