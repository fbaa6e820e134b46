"""How a queued job gets to whoever runs it: a thread of `serve`, or Celery where Redis is configured."""

from __future__ import annotations

from console.jobs.celery_notify import notify_workers
from console.jobs.runner import RUNNER


def dispatch() -> None:
    """Let queued jobs be taken up now; called once they are committed. No request waits for Redis."""
    if not RUNNER.wake():
        notify_workers()  # a process without a runner, such as a command
