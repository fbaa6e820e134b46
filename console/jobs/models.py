"""Long work: one row per job, which is the truth about it wherever it runs."""

from __future__ import annotations

import uuid

from django.db import models
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from console.audit.actor import Actor


def new_id() -> str:
    return f"job-{uuid.uuid4().hex[:16]}"


class Job(models.Model):
    """Work that somebody asked for. It ends exactly once: done, failed or cancelled."""

    class State(models.TextChoices):
        QUEUED = "queued", _("queued")
        RUNNING = "running", _("running")
        DONE = "done", _("done")
        FAILED = "failed", _("failed")
        CANCELLED = "cancelled", _("cancelled")

    class Where(models.TextChoices):
        WORKER = "worker", _("worker")  # Celery where REDIS_URL is set, else a thread of `serve`
        ENGINE = "engine", _("engine")  # low-priority work beside the engine, in `serve`

    OPEN = (State.QUEUED, State.RUNNING)
    REPEATABLE = (State.FAILED, State.CANCELLED)

    id = models.CharField(primary_key=True, max_length=32, default=new_id)
    kind = models.CharField(max_length=40)  # a name of jobs/kinds.py
    where = models.CharField(max_length=6, choices=Where.choices)
    subject = models.CharField(max_length=200)  # what it is about, for people: a model's or revision's name
    arguments = models.JSONField(default=dict)  # of the kind's function; never a secret
    state = models.CharField(max_length=9, choices=State.choices, default=State.QUEUED)
    stage = models.CharField(max_length=200, blank=True)
    fraction = models.FloatField(default=0.0)  # 0 to 1
    result = models.JSONField(default=dict)
    error_code = models.CharField(max_length=40, blank=True)
    error = models.TextField(blank=True)
    is_cancel_asked = models.BooleanField(default=False)
    num_starts = models.PositiveIntegerField(default=0)  # tells a run from one before it
    num_deaths = models.PositiveSmallIntegerField(default=0)  # runs whose process died
    server = models.CharField(max_length=64, blank=True)  # the lease of the process that runs it
    alive_at = models.DateTimeField(null=True)  # when that process last said so
    actor = models.CharField(max_length=200)
    ip = models.CharField(max_length=64, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    started_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    retry_of = models.ForeignKey("self", on_delete=models.SET_NULL, null=True, related_name="retries")

    class Meta:
        ordering = ["-created_at"]
        indexes = [
            models.Index(fields=["state", "where", "created_at"]),
            models.Index(fields=["created_at"]),
        ]

    def __str__(self) -> str:
        return self.id

    @property
    def asked_by(self) -> Actor:
        return Actor.recorded(self.actor, ip=self.ip)

    @property
    def is_open(self) -> bool:
        return self.state in self.OPEN

    @property
    def is_repeatable(self) -> bool:
        return self.state in self.REPEATABLE

    @property
    def num_ahead(self) -> int:
        """How many jobs are taken up before this one, which is queued."""
        queued = Job.objects.filter(state=self.State.QUEUED, where=self.where)
        return queued.filter(created_at__lt=self.created_at).count()

    @property
    def percent(self) -> int:
        return int(self.fraction * 100)

    @property
    def run_seconds(self) -> float | None:
        """How long it has run, or ran; None where it never began."""
        if self.started_at is None:
            return None
        return ((self.ended_at or timezone.now()) - self.started_at).total_seconds()


class JobLine(models.Model):
    """A line of a job's log."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="lines")
    at = models.DateTimeField(default=timezone.now)
    text = models.CharField(max_length=1000)

    class Meta:
        ordering = ["id"]
