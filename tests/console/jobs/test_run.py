"""One job from its wish to its end: what its row, its log and the audit log say."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from django.db import OperationalError, connection

from console.audit.actor import Actor
from console.audit.models import Entry
from console.jobs import execute as run_module
from console.jobs import job_context
from console.jobs.actions import JobActionRefused, cancel, enqueue, retry
from console.jobs.execute import hand_over_all, run
from console.jobs.job_context import LEAVING, MAX_LINES, RunningJob
from console.jobs.models import Job
from console.jobs.registry import KINDS
from console.jobs.transitions import take
from tests.console.jobs import kinds_of_work  # noqa: F401 - registers the kinds
from tests.flow.house import eventually

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _stays() -> Iterator[None]:
    LEAVING.clear()
    yield
    LEAVING.clear()


def wish(kind: str = "test.steps", **arguments: Any) -> Job:
    return enqueue(
        actor=Actor.person("mia", ip="10.0.0.7"), kind=kind, subject="a model", arguments=arguments
    )


def taken(job: Job) -> Job:
    mine = take(job.pk)
    assert mine is not None
    return mine


def done(job: Job) -> Job:
    run(taken(job))
    job.refresh_from_db()
    return job


def texts(job: Job) -> list[str]:
    return list(job.lines.values_list("text", flat=True))


def actions() -> list[tuple[str, str]]:
    entries = Entry.objects.filter(action__startswith="job.").order_by("seq")
    return list(entries.values_list("action", "actor"))


def in_background(job: Job) -> threading.Thread:
    def work() -> None:
        run(job)
        connection.close()

    thread = threading.Thread(target=work)
    thread.start()
    return thread


def test_a_job_is_done_once_with_its_result_and_its_log() -> None:
    job = done(wish(steps=3))
    assert (job.state, job.fraction, job.result, job.num_starts) == ("done", 1.0, {"steps": 3}, 1)
    assert texts(job) == ["step 1", "step 2", "step 3"]
    assert job.ended_at is not None and job.run_seconds is not None
    assert take(job.pk) is None
    assert actions() == [("job.enqueue", "mia"), ("job.done", "mia")]


def test_a_failure_that_people_can_mend_says_what() -> None:
    job = done(wish("test.fails"))
    assert (job.state, job.error_code, job.error) == ("failed", "disk_full", "The disk is full.")


def test_a_fault_is_told_by_its_name_and_is_in_the_servers_log(caplog: pytest.LogCaptureFixture) -> None:
    job = done(wish("test.fails", is_fault=True))
    assert (job.error_code, job.error) == ("internal_error", "ZeroDivisionError: a fault")
    assert "Traceback" in caplog.text and job.pk in caplog.text


@pytest.mark.parametrize("kind", ["test.no_json", "test.forgotten"])
def test_what_cannot_be_kept_or_is_not_known_fails(kind: str) -> None:
    job = wish("test.steps", steps=1)
    Job.objects.update(kind=kind)
    assert done(job).state == "failed"
    assert job.error_code == {"test.no_json": "internal_error", "test.forgotten": "unknown_kind"}[kind]


def test_progress_and_lines_are_seen_while_it_runs_and_a_cancel_ends_it_within_a_second() -> None:
    job = wish(steps=100, seconds=0.1)
    thread = in_background(taken(job))
    eventually(lambda: Job.objects.filter(pk=job.pk, fraction__gt=0.02).exists())
    assert texts(job)
    num_steps = len(texts(job))
    cancel(actor=Actor.person("ben"), job=job)
    thread.join(60)
    assert len(texts(job)) - num_steps <= 15  # steps of a tenth of a second, and the log lags by five
    job.refresh_from_db()
    assert job.state == "cancelled" and job.fraction < 0.5
    assert actions() == [("job.enqueue", "mia"), ("job.cancel", "ben"), ("job.cancelled", "mia")]
    with pytest.raises(JobActionRefused, match="ended already"):
        cancel(actor=Actor.person("ben"), job=job)


def test_a_queued_job_is_cancelled_at_once() -> None:
    job = wish(steps=1)
    cancel(actor=Actor.person("ben"), job=job)
    job.refresh_from_db()
    assert job.state == "cancelled" and take(job.pk) is None
    assert actions()[-2:] == [("job.cancel", "ben"), ("job.cancelled", "ben")]


def test_a_failed_job_is_tried_again_as_another_but_not_twice_at_once() -> None:
    failed = done(wish("test.fails"))
    again = retry(actor=Actor.person("ben"), job=failed)
    assert (again.retry_of, again.state, again.actor) == (failed, "queued", "ben")
    with pytest.raises(JobActionRefused, match="already"):
        retry(actor=Actor.person("ben"), job=failed)
    done(again)
    assert retry(actor=Actor.person("ben"), job=failed).retry_of == failed
    with pytest.raises(JobActionRefused, match="queued"):
        retry(actor=Actor.person("ben"), job=Job.objects.filter(state="queued").get())


def test_the_log_is_bounded_in_lines_and_characters() -> None:
    work = RunningJob(taken(wish()))
    for number in range(MAX_LINES + 500):
        work.log("x" * 3000 if number == 0 else str(number))
    work.write()
    lines = texts(Job.objects.get())
    assert len(lines) == MAX_LINES and len(lines[0]) == 1000
    assert "full" in lines[-1]


def test_a_locked_database_neither_slows_nor_kills_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    if connection.vendor != "sqlite":
        pytest.skip("PostgreSQL locks rows")
    monkeypatch.setattr(job_context, "WRITE_SECONDS", 0.05)
    job, reports = wish(), []

    def measured(work: Any) -> dict[str, Any]:
        for number in range(200):
            work.progress("the long way", number / 200)
            reports.append(number)
            time.sleep(0.005)
        return {}

    monkeypatch.setitem(KINDS, "test.steps", replace(KINDS["test.steps"], function=measured))
    mine = taken(job)
    locker = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None)
    locker.execute("BEGIN IMMEDIATE")
    thread = in_background(mine)
    eventually(lambda: len(reports) == 200)  # while the database is locked
    locker.execute("ROLLBACK")
    locker.close()
    thread.join(60)
    job.refresh_from_db()
    assert job.state == "done"


def test_an_end_that_cannot_be_written_is_written_later(monkeypatch: pytest.MonkeyPatch) -> None:
    ended, calls = run_module.end, []

    def end_at_the_third_call(*args: Any, **kwargs: Any) -> bool:
        calls.append(1)
        if len(calls) < 3:
            raise OperationalError("database is locked")
        return ended(*args, **kwargs)

    monkeypatch.setattr(run_module, "end", end_at_the_third_call)
    monkeypatch.setattr(run_module, "RETRY_SECONDS", 0.01)
    assert done(wish(steps=1)).state == "done"
    assert len(calls) == 3


def test_a_process_that_leaves_hands_over_what_runs() -> None:
    job = wish(steps=1000, seconds=0.05)
    thread = in_background(taken(job))
    eventually(lambda: Job.objects.filter(pk=job.pk, fraction__gt=0).exists())
    LEAVING.set()
    thread.join(60)
    job.refresh_from_db()
    assert (job.state, job.server, job.num_deaths) == ("queued", "", 0)
    assert "begun again" in texts(job)[-1]
    LEAVING.clear()
    Job.objects.update(arguments={"steps": 2})
    assert done(job).state == "done" and job.num_starts == 2


def test_work_that_does_not_listen_is_handed_over_and_what_it_says_later_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    go_on = threading.Event()

    def deaf(work: Any) -> dict[str, Any]:
        go_on.wait(60)
        return {"by": "the old"}

    monkeypatch.setitem(KINDS, "test.steps", replace(KINDS["test.steps"], function=deaf))
    job = wish()
    thread = in_background(taken(job))
    eventually(lambda: Job.objects.filter(pk=job.pk, state="running").exists())
    hand_over_all()
    second = taken(job)
    go_on.set()
    thread.join(60)
    job.refresh_from_db()
    assert (job.state, job.result, job.num_starts) == ("running", {}, 2)
    run(second)
    job.refresh_from_db()
    assert job.state == "done"
