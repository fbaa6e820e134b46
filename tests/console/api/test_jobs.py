"""Jobs over the management API."""

from __future__ import annotations

from typing import Any

import pytest

from console.audit.actor import Actor
from console.jobs.actions import enqueue
from console.jobs.models import Job, JobLine
from tests.console.api.conftest import Call, entries_since, error_of, last_seq
from tests.console.jobs import kinds_of_work  # noqa: F401 - registers the kinds

pytestmark = pytest.mark.django_db


def new(**columns: Any) -> Job:
    job = enqueue(actor=Actor.person("mia"), kind="test.steps", subject="smollm2", arguments={"steps": 3})
    Job.objects.filter(pk=job.pk).update(**columns)
    job.refresh_from_db()
    return job


def test_jobs_are_listed_newest_first_page_by_page(program: Call) -> None:
    made = [new(state="done" if number % 2 else "queued").pk for number in range(5)]
    seen, cursor = [], None
    while True:
        page = program("GET", "jobs?limit=2" + (f"&cursor={cursor}" if cursor else "")).json()
        seen += [one["id"] for one in page["data"]]
        if (cursor := page["next"]) is None:
            break
    assert seen == made[::-1]
    assert len(program("GET", "jobs?state=open").json()["data"]) == 3
    assert error_of(program("GET", "jobs?cursor=job-x"))["code"] == "invalid_cursor"
    assert program("GET", "jobs?state=sleeping").status_code == 400


def test_a_job_is_shown_with_the_end_of_its_log(program: Call) -> None:
    job = new(state="running", stage="half way", fraction=0.5)
    JobLine.objects.bulk_create(JobLine(job=job, text=str(number)) for number in range(250))
    shown = program("GET", f"jobs/{job.pk}").json()
    assert (shown["stage"], shown["fraction"], shown["arguments"]) == ("half way", 0.5, {"steps": 3})
    assert [line["text"] for line in shown["log"]] == [str(number) for number in range(50, 250)]
    assert program("GET", "jobs/job-x").status_code == 404


def test_a_job_is_cancelled_and_tried_again_once(program: Call) -> None:
    job, seq = new(), last_seq()
    answer = program("POST", f"jobs/{job.pk}/cancel")
    assert (answer.status_code, answer.json()["state"]) == (202, "cancelled")
    assert error_of(program("POST", f"jobs/{job.pk}/cancel"))["code"] == "job_not_possible"
    again = program("POST", f"jobs/{job.pk}/retry")
    assert (again.status_code, again.json()["retry_of"]) == (201, job.pk)
    assert program("POST", f"jobs/{job.pk}/retry").status_code == 409
    assert [action for _, action, _ in entries_since(seq)] == ["job.cancel", "job.cancelled", "job.enqueue"]
