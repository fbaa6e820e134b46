"""Ask for work, ask for its end, ask for it again."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from django.db import transaction

from console.audit.write import write
from console.jobs.dispatch import dispatch
from console.jobs.kinds import KINDS
from console.jobs.models import Job


class NotPossible(RuntimeError):
    """The job has ended already, or has not ended yet; the message says which."""


@transaction.atomic
def enqueue(
    *,
    actor: str,
    kind: str,
    subject: str,
    arguments: Mapping[str, Any],
    ip: str = "",
    retry_of: Job | None = None,
) -> Job:
    """Queue work of a kind of `kinds.py`. It starts once the caller's transaction is committed."""
    job = Job.objects.create(
        kind=kind,
        where=KINDS[kind].where,
        subject=subject,
        arguments=dict(arguments),
        actor=actor,
        ip=ip,
        retry_of=retry_of,
    )
    detail = {"kind": kind, "subject": subject, "arguments": dict(arguments)}
    if retry_of:
        detail["retry_of"] = retry_of.pk
    write(actor=actor, action="job.enqueue", target=job.pk, detail=detail, ip=ip)
    transaction.on_commit(partial(dispatch, job))
    return job


@transaction.atomic
def cancel(*, actor: str, job: Job, ip: str = "") -> None:
    """End a job: at once where it is queued, at its next word where it runs. Raises `NotPossible`."""
    locked = Job.objects.select_for_update().get(pk=job.pk)
    if not locked.is_open:
        raise NotPossible(f"{job.pk} has ended already ({locked.state})")
    if locked.is_cancel_asked:
        return
    locked.is_cancel_asked = True
    if locked.state == Job.State.QUEUED:
        locked.end(Job.State.CANCELLED)
    locked.save()
    write(actor=actor, action="job.cancel", target=job.pk, detail={"kind": job.kind}, ip=ip)


def retry(*, actor: str, job: Job, ip: str = "") -> Job:
    """The same work again, as a new job. Raises `NotPossible` where it is open or done."""
    if job.state not in (Job.State.FAILED, Job.State.CANCELLED):
        raise NotPossible(f"{job.pk} is {job.state}: only what failed or was cancelled is tried again")
    return enqueue(
        actor=actor, kind=job.kind, subject=job.subject, arguments=job.arguments, ip=ip, retry_of=job
    )
