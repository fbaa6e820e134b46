"""Ask for work, ask for its end, ask for it again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from django.db import transaction

from console.audit.actor import Actor
from console.audit.write import write
from console.database.after_commit import after_commit
from console.jobs.dispatch import dispatch
from console.jobs.models import Job
from console.jobs.registry import KINDS
from console.jobs.transitions import end


class JobActionRefused(RuntimeError):
    """The job has ended already, or has not ended yet; the message says which."""


@transaction.atomic
def enqueue(
    *,
    actor: Actor,
    kind: str,
    subject: str,
    arguments: Mapping[str, Any],
    retry_of: Job | None = None,
) -> Job:
    """Queue work of a kind of `kinds.py`. It starts once the caller's transaction is committed."""
    job = Job.objects.create(
        kind=kind,
        where=KINDS[kind].where,
        subject=subject,
        arguments=dict(arguments),
        actor=actor.name,
        ip=actor.ip,
        retry_of=retry_of,
    )
    detail = {"kind": kind, "subject": subject, "arguments": dict(arguments)}
    if retry_of:
        detail["retry_of"] = retry_of.pk
    write(actor=actor, action="job.enqueue", target=job.pk, detail=detail)
    after_commit(dispatch, name="dispatch job")
    return job


@transaction.atomic
def cancel(*, actor: Actor, job: Job) -> None:
    """End a job: at once where it is queued, at its next word where it runs. Raises `JobActionRefused`."""
    rows = Job.objects.filter(pk=job.pk)
    locked = rows.select_for_update().get()
    if not locked.is_open:
        raise JobActionRefused(f"{job.pk} has ended already: it is {locked.state}.")
    if locked.is_cancel_asked:
        return
    rows.update(is_cancel_asked=True)
    write(actor=actor, action="job.cancel", target=job.pk, detail={"kind": job.kind})
    if locked.state == Job.State.QUEUED:
        end(rows, locked, Job.State.CANCELLED, actor=actor)


@transaction.atomic
def retry(*, actor: Actor, job: Job) -> Job:
    """The same work again, as a new job. Raises `JobActionRefused` where it is open or done."""
    locked = Job.objects.select_for_update().get(pk=job.pk)
    if locked.state not in Job.REPEATABLE:
        raise JobActionRefused(
            f"{job.pk} is {locked.state}: only what failed or was cancelled is tried again."
        )
    if again := locked.retries.filter(state__in=Job.OPEN).first():
        raise JobActionRefused(f"{job.pk} is being tried again already, as {again.pk}.")
    return enqueue(
        actor=actor,
        kind=locked.kind,
        subject=locked.subject,
        arguments=locked.arguments,
        retry_of=locked,
    )
