"""Finish, cancel, recovery and hand-over at the same moment: a job ends exactly once, and says so once."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from django.conf import settings
from django.db import connection

from console.audit.actor import Actor
from console.audit.models import Entry
from console.database.process_lease import Lease
from console.jobs.actions import JobActionRefused, cancel, enqueue
from console.jobs.models import Job
from console.jobs.recovery import recover
from console.jobs.transitions import end, queue_again, take, this_run
from tests.console.jobs import kinds_of_work  # noqa: F401 - registers the kinds

pytestmark = pytest.mark.django_db(transaction=True)

ENDS = ("job.done", "job.failed", "job.cancelled")
ROUNDS = 12


def at_once(*calls: Callable[[], object]) -> None:
    """Each in a thread of its own, all let go at the same moment; a fault of any fails."""
    gate, faults = threading.Barrier(len(calls)), []

    def run(call: Callable[[], object]) -> None:
        gate.wait()
        try:
            call()
        except JobActionRefused:
            pass
        except BaseException as fault:
            faults.append(fault)
        finally:
            connection.close()

    shuffled = random.sample(calls, len(calls))
    threads = [threading.Thread(target=run, args=(call,)) for call in shuffled]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []


def new() -> Job:
    return enqueue(actor=Actor.person("mia"), kind="test.steps", subject="a model", arguments={"steps": 1})


def ends_of(job: Job) -> int:
    return Entry.objects.filter(action__in=ENDS, target=job.pk).count()


def test_of_many_that_take_a_job_one_gets_it() -> None:
    for _ in range(ROUNDS):
        job = new()
        at_once(*[partial(take, job.pk)] * 4)
        job.refresh_from_db()
        assert (job.state, job.num_starts) == ("running", 1)


def test_a_job_that_is_cancelled_while_it_is_taken_ends_or_is_told() -> None:
    for _ in range(ROUNDS):
        job = new()
        at_once(partial(take, job.pk), partial(cancel, actor=Actor.person("ben"), job=job))
        job.refresh_from_db()
        assert job.is_cancel_asked
        assert (job.state, ends_of(job)) in {("cancelled", 1), ("running", 0)}


def test_finish_cancel_recovery_and_hand_over_leave_one_end_or_one_queued_job() -> None:
    lease = Lease(Path(settings.LEASE_DIR))
    lease.release()
    for _ in range(ROUNDS):
        job = take(new().pk)
        assert job is not None
        Job.objects.filter(pk=job.pk).update(server=lease.server)
        at_once(
            partial(end, this_run(job), job, Job.State.DONE, result={}),
            partial(end, this_run(job), job, Job.State.FAILED, error_code="disk_full"),
            partial(queue_again, this_run(job), job, because="handed over", num_deaths=0),
            partial(cancel, actor=Actor.person("ben"), job=job),
            recover,
            recover,
        )
        row = Job.objects.get(pk=job.pk)
        if row.state == Job.State.QUEUED:
            assert (ends_of(job), row.ended_at, row.num_deaths in (0, 1)) == (0, None, True)
            assert job.lines.count() == 1
            cancel(actor=Actor.person("test"), job=job)
        else:
            assert not row.is_open and row.ended_at is not None
        assert ends_of(job) == 1
