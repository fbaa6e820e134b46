"""Which jobs a reader asks for, newest first."""

from __future__ import annotations

from django.db.models import QuerySet

from console.audit import visibility
from console.audit.actor import Actor
from console.jobs.models import Job

OPEN = "open"  # queued or running


def find_jobs(actor: Actor, *, state: str = "", kind: str = "", subject: str = "") -> QuerySet[Job]:
    """What is empty asks for all; `state` may also be `open`."""
    jobs = visibility.visible_to(actor, Job.objects.all()).order_by("-created_at", "-pk")
    if state:
        jobs = jobs.filter(state__in=Job.OPEN if state == OPEN else [state])
    if kind:
        jobs = jobs.filter(kind=kind)
    return jobs.filter(subject=subject) if subject else jobs
