"""What a dead process left: begun again, given up after some deaths, or cancelled; the living keep theirs."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings
from django.utils import timezone

from console.audit.actor import Actor
from console.audit.models import Entry
from console.database.process_lease import Lease
from console.jobs.actions import cancel, enqueue
from console.jobs.models import Job
from console.jobs.recovery import recover
from console.jobs.registry import MAX_DEATHS
from console.jobs.transitions import take
from tests.console.jobs import kinds_of_work  # noqa: F401 - registers the kinds

pytestmark = pytest.mark.django_db


def run_by(server: str, **columns: Any) -> Job:
    job = enqueue(actor=Actor.person("mia"), kind="test.steps", subject="a model", arguments={"steps": 1})
    assert take(job.pk)
    Job.objects.filter(pk=job.pk).update(server=server, **columns)
    job.refresh_from_db()
    return job


@pytest.fixture
def dead() -> str:
    """A server whose lease lies there, held by nobody."""
    lease = Lease(Path(settings.LEASE_DIR))
    lease.release()
    return lease.server


def test_a_dead_servers_job_is_queued_again_at_once(dead: str) -> None:
    job = run_by(dead, stage="half", fraction=0.5)
    assert recover() == 1
    job.refresh_from_db()
    assert (job.state, job.server, job.stage, job.fraction, job.num_deaths) == ("queued", "", "", 0.0, 1)
    assert "begun again" in job.lines.get().text
    assert recover() == 0


def test_the_third_death_is_its_end(dead: str) -> None:
    job = run_by(dead, num_deaths=MAX_DEATHS - 1)
    assert recover() == 1
    job.refresh_from_db()
    assert (job.state, job.error_code) == ("failed", "server_died")
    assert f"{MAX_DEATHS} times" in job.error
    assert Entry.objects.filter(action="job.failed", target=job.pk).count() == 1


def test_a_job_that_was_cancelled_while_its_server_was_dead_ends_cancelled(dead: str) -> None:
    job = run_by(dead)
    cancel(actor=Actor.person("ben"), job=job)
    assert recover() == 1
    job.refresh_from_db()
    assert job.state == "cancelled" and job.ended_at is not None


def test_the_living_keep_theirs_however_silent() -> None:
    lease = Lease(Path(settings.LEASE_DIR))
    long_ago = timezone.now() - timedelta(days=1)
    run_by(lease.server, alive_at=long_ago)
    own = take(enqueue(actor=Actor.person("mia"), kind="test.steps", subject="own", arguments={}).pk)
    assert own is not None
    Job.objects.filter(pk=own.pk).update(alive_at=long_ago)
    assert recover() == 0
    lease.release()
    assert recover() == 1


@pytest.mark.parametrize(("silent", "num"), [(15, 0), (31, 1)])
def test_a_server_elsewhere_is_dead_when_it_is_silent_for_half_a_minute(silent: int, num: int) -> None:
    run_by("elsewhere", alive_at=timezone.now() - timedelta(seconds=silent))
    assert recover() == num
