"""How a job's state changes: each change is one conditional UPDATE, so that of several only one happens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from django.db import transaction
from django.db.models import F, QuerySet
from django.utils import timezone

from console.audit.actor import Actor
from console.audit.write import write
from console.database.process_lease import own_lease
from console.database.text import stored_text
from console.jobs.models import Job, JobLine


@transaction.atomic
def take(pk: str) -> Job | None:
    """Make a queued job this process's own; None where somebody else was quicker or it has ended."""
    now = timezone.now()
    taken = Job.objects.filter(pk=pk, state=Job.State.QUEUED).update(
        state=Job.State.RUNNING,
        server=own_lease().server,
        num_starts=F("num_starts") + 1,
        started_at=now,
        alive_at=now,
        stage="",
        fraction=0.0,
    )
    return Job.objects.get(pk=pk) if taken else None


def this_run(job: Job) -> QuerySet[Job]:
    """The row for as long as it is run as `job` says; empty once it has ended or was begun again."""
    return Job.objects.filter(pk=job.pk, state=Job.State.RUNNING, num_starts=job.num_starts)


@transaction.atomic
def end(
    rows: QuerySet[Job],
    job: Job,
    state: Job.State,
    *,
    actor: Actor | None = None,
    error_code: str = "",
    error: str = "",
    result: Mapping[str, Any] | None = None,
) -> bool:
    """Let a job end where `rows` still finds it. False: it has ended already, or others run it now."""
    columns: dict[str, Any] = {"state": state, "error_code": error_code, "ended_at": timezone.now()}
    columns["error"] = stored_text(error, length=4000)
    if state == Job.State.DONE:
        columns |= {"fraction": 1.0, "result": json.loads(json.dumps(dict(result or {}), allow_nan=False))}
    if not rows.filter(pk=job.pk, state__in=Job.OPEN).update(**columns):
        return False
    detail = {"kind": job.kind, "subject": job.subject}
    if error_code:
        detail["error_code"] = error_code
    write(actor=actor or job.asked_by, action=f"job.{state.value}", target=job.pk, detail=detail)
    return True


@transaction.atomic
def queue_again(rows: QuerySet[Job], job: Job, *, because: str, num_deaths: int) -> bool:
    """Let a running job be begun again by whoever takes it. False as for `end`, or it is to be cancelled."""
    waiting = rows.filter(pk=job.pk, state=Job.State.RUNNING, is_cancel_asked=False).update(
        state=Job.State.QUEUED, server="", stage="", fraction=0.0, started_at=None, num_deaths=num_deaths
    )
    if waiting:
        JobLine.objects.create(job_id=job.pk, text=because)
    return bool(waiting)
