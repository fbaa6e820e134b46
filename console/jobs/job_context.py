"""The `JobContext` that a kind's function gets. What it says is kept in memory; a thread writes it to
the row, so that neither a slow nor a locked database holds up or ends the work.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from typing import Any

from django.db import Error, connection
from django.utils import timezone
from django.utils.translation import gettext_noop

from console.audit.actor import Actor
from console.database.text import stored_text
from console.jobs.models import Job, JobLine
from console.jobs.registry import Cancelled
from console.jobs.transitions import this_run

logger = logging.getLogger(__name__)

WRITE_SECONDS = 0.5  # between two looks at the row, with a write where there is news
ALIVE_SECONDS = 5.0  # between two signs of life where there is none
MAX_LINES = 1000  # of one run's log
FULL = gettext_noop("The log is full: what follows is left out.")
LEAVING = threading.Event()  # this process is about to end: what runs is handed over


class RunningJob:
    """One run of a job that this process has taken."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._lock = threading.Lock()
        self._stage, self._fraction = job.stage, job.fraction
        self._written = (job.stage, job.fraction)
        self._lines: list[JobLine] = []
        self._num_lines = 0
        self._alive_at = time.monotonic()
        self.is_over = False  # somebody asked for an end, or others run it now

    @property
    def job_id(self) -> str:
        return self._job.pk

    @property
    def actor(self) -> Actor:
        return self._job.asked_by

    @property
    def arguments(self) -> Mapping[str, Any]:
        return dict(self._job.arguments)

    def progress(self, stage: str, fraction: float) -> None:
        stage = stored_text(stage, length=200)
        with self._lock:
            is_news, self._stage, self._fraction = stage != self._stage, stage, min(1.0, max(0.0, fraction))
        if is_news:
            self.log(stage)
        self.check()

    def check(self) -> None:
        if self.is_over or LEAVING.is_set():
            raise Cancelled

    def log(self, text: str) -> None:
        with self._lock:
            self._num_lines += 1
            if self._num_lines > MAX_LINES:
                return
            is_last = self._num_lines == MAX_LINES
            text = FULL if is_last else stored_text(text, length=1000)
            self._lines.append(JobLine(job=self._job, text=text))

    def write_on(self, stop: threading.Event) -> None:
        """Write news to the row, and read from it whether an end was asked for, until told to stop."""
        try:
            while not stop.wait(WRITE_SECONDS):
                try:
                    self._look()
                    self.write()
                except Error:
                    logger.warning("%s: its progress cannot be written now", self.job_id, exc_info=True)
                    connection.close()
        finally:
            connection.close()

    def _look(self) -> None:
        row = this_run(self._job).values_list("is_cancel_asked", flat=True).first()
        self.is_over = row is None or row

    def write(self) -> None:
        """Write what is new, and where nothing is, now and then a sign of life."""
        with self._lock:
            news, lines, self._lines = (self._stage, self._fraction), self._lines, []
        try:
            JobLine.objects.bulk_create(lines)
        except Error:
            with self._lock:
                self._lines = lines + self._lines
            raise
        is_due = time.monotonic() - self._alive_at > ALIVE_SECONDS
        if news != self._written or is_due:
            this_run(self._job).update(stage=news[0], fraction=news[1], alive_at=timezone.now())
            self._written, self._alive_at = news, time.monotonic()
