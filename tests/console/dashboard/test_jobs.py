"""The jobs pages: what a list, a job and its fragments say, and what operators do there."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from console.accounts.roles import Role
from console.audit.actor import Actor
from console.jobs.actions import enqueue
from console.jobs.models import Job, JobLine
from tests.catalog_rows import make_revision
from tests.console.dashboard.conftest import SignedIn
from tests.console.jobs import kinds_of_work  # noqa: F401 - registers the kinds


@pytest.fixture
def operator(signed_in: SignedIn) -> Client:
    return signed_in(Role.OPERATOR)


def new(**columns: Any) -> Job:
    job = enqueue(actor=Actor.person("mia"), kind="test.steps", subject="smollm2", arguments={"steps": 3})
    Job.objects.filter(pk=job.pk).update(**columns)
    job.refresh_from_db()
    return job


def text(client: Client, route: str, *args: Any, query: str = "") -> str:
    answer = client.get(reverse(f"dashboard:{route}", args=args) + query)
    assert answer.status_code == 200
    return answer.content.decode()


def test_the_list_is_honest_when_empty_and_filters_by_state(operator: Client) -> None:
    assert "No job yet" in text(operator, "jobs")
    new(state="failed", error="The disk is full.")
    assert "The disk is full." in text(operator, "jobs")
    assert "No matching jobs" in text(operator, "jobs", query="?state=open")
    new(state="running", stage="half way", fraction=0.5)
    page = text(operator, "jobs", query="?state=open")
    assert "half way" in page and "The disk is full." not in page


def test_the_list_asks_each_second_only_while_something_is_open(operator: Client) -> None:
    job = new(state="running")
    assert 'hx-trigger="every 1s"' in text(operator, "jobs")
    Job.objects.filter(pk=job.pk).update(state="done")
    assert 'hx-trigger="every 5s"' in text(operator, "jobs")


def test_progress_asks_for_itself_until_the_end_and_then_says_so_once(operator: Client) -> None:
    job = new(state="running", stage="half way", fraction=0.5)
    path = reverse("dashboard:job_progress", args=[job.pk])
    answer = operator.get(path)
    assert "HX-Trigger" not in answer.headers
    assert f'hx-get="{path}"' in answer.content.decode() and "50 %" in answer.content.decode()
    Job.objects.filter(pk=job.pk).update(state="done")
    answer = operator.get(path)
    assert answer.headers["HX-Trigger"] == f'{{"job-ended": {{"id": "{job.pk}", "state": "done"}}}}'
    assert "hx-get" not in answer.content.decode()


def test_the_log_grows_by_what_is_new(operator: Client) -> None:
    job = new(state="running")
    first = JobLine.objects.create(job=job, text="one <b>")
    page = text(operator, "job", job.pk)
    assert "one &lt;b&gt;" in page and f"after={first.pk}" in page
    path = reverse("dashboard:job_lines", args=[job.pk])
    assert operator.get(f"{path}?after={first.pk}").status_code == 204
    second = JobLine.objects.create(job=job, text="two")
    new_lines = text(operator, "job_lines", job.pk, query=f"?after={first.pk}")
    assert "two" in new_lines and "one" not in new_lines and f"after={second.pk}" in new_lines
    Job.objects.filter(pk=job.pk).update(state="done")
    assert text(operator, "job_lines", job.pk, query=f"?after={second.pk}").strip() == ""


@pytest.mark.parametrize("query", ["?after=x", "?after=-1", f"?after={'9' * 40}", ""])
def test_an_odd_place_in_the_log_is_its_beginning(operator: Client, query: str) -> None:
    job = new(state="done")
    JobLine.objects.create(job=job, text="one")
    assert "one" in text(operator, "job_lines", job.pk, query=query)


def test_a_failure_says_what_to_do_next(operator: Client) -> None:
    job = new(state="failed", error_code="server_died", error="The process that ran it died 3 times.")
    page = text(operator, "job", job.pk)
    assert "died 3 times" in page and "If memory ran out" in page


def test_an_operator_cancels_and_tries_again(operator: Client) -> None:
    job = new()
    cancel, retry = (reverse(f"dashboard:job_{verb}", args=[job.pk]) for verb in ("cancel", "retry"))
    assert cancel in text(operator, "job", job.pk)
    operator.post(cancel)
    job.refresh_from_db()
    assert job.state == "cancelled"
    assert retry in text(operator, "job", job.pk)
    answer = operator.post(retry)
    again = Job.objects.get(retry_of=job)
    assert answer.headers["Location"] == reverse("dashboard:job", args=[again.pk])
    assert again.actor == "the-operator"
    assert "tried again" in text(operator, "job", job.pk)
    operator.post(retry)
    assert Job.objects.filter(retry_of=job).count() == 1


def test_a_job_leads_to_the_revision_that_it_made(operator: Client) -> None:
    revision = make_revision("smollm2", "smollm2-2")
    page = text(operator, "job", new(state="done", result={"revision": revision.pk}).pk)
    assert f'href="/models/smollm2/{revision.pk}/"' in page
    gone = new(state="done", result={"revision": "deleted-since"})
    assert "deleted-since" in text(operator, "job", gone.pk)


def test_a_viewer_sees_no_buttons(signed_in: SignedIn) -> None:
    job = new()
    viewer = signed_in(Role.VIEWER)
    assert "/cancel" not in text(viewer, "job", job.pk)
    assert viewer.post(reverse("dashboard:job_cancel", args=[job.pk])).status_code == 403
