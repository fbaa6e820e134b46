"""Group commit: fewer transactions than waiters, nobody told too early, nobody harmed by a neighbour."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future

import pytest
from django.db import DatabaseError, OperationalError, connection

from console.accounts.models import Team
from console.database.group_commit import Closed, GroupCommit

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def committer() -> Iterator[GroupCommit]:
    committer = GroupCommit()
    yield committer
    assert committer.close(timeout=10)


def hold(committer: GroupCommit) -> tuple[threading.Event, Future[None]]:
    """Keep the committer busy, so that what comes next waits together."""
    started, let_go = threading.Event(), threading.Event()

    def work() -> None:
        started.set()
        let_go.wait(10)

    future = committer.submit(work)
    assert started.wait(10)
    return let_go, future


def new_team(name: str) -> str:
    Team.objects.create(name=name)
    return name


def submit_team(committer: GroupCommit, name: str) -> Future[str]:
    return committer.submit(lambda: new_team(name))


def test_those_who_wait_share_a_transaction(committer: GroupCommit) -> None:
    let_go, _ = hold(committer)
    futures = [submit_team(committer, f"team {number}") for number in range(100)]
    let_go.set()
    assert [future.result(10) for future in futures] == [f"team {number}" for number in range(100)]
    assert committer.num_transactions == 2
    assert Team.objects.count() == 100


def test_nobody_is_told_before_the_commit(committer: GroupCommit) -> None:
    seen: list[bool] = []
    let_go, _ = hold(committer)
    first = submit_team(committer, "first")
    first.add_done_callback(lambda _: seen.append(Team.objects.filter(name="first").exists()))
    second = committer.submit(lambda: seen.append(first.done()))
    let_go.set()
    second.result(10)
    assert seen == [False, True]  # not yet done inside the transaction, done and durable after it


def test_a_failing_neighbour_harms_nobody(committer: GroupCommit) -> None:
    let_go, _ = hold(committer)
    futures = [submit_team(committer, name) for name in ("a", "b", "a", "c")]
    let_go.set()
    with pytest.raises(DatabaseError):
        futures[2].result(10)
    assert [futures[i].result(10) for i in (0, 1, 3)] == ["a", "b", "c"]
    assert sorted(Team.objects.values_list("name", flat=True)) == ["a", "b", "c"]


def test_half_done_work_is_undone(committer: GroupCommit) -> None:
    def work() -> None:
        new_team("half")
        raise ValueError("changed my mind")

    with pytest.raises(ValueError, match="changed my mind"):
        committer.submit(work).result(10)
    assert not Team.objects.exists()


def test_a_group_that_does_not_commit_is_tried_one_by_one(committer: GroupCommit) -> None:
    let_go, _ = hold(committer)
    tries = []

    def locked_once() -> str:
        tries.append(1)
        if len(tries) == 1:
            raise OperationalError("database is locked")
        return new_team("locked")

    futures = [
        submit_team(committer, "before"),
        committer.submit(locked_once),
        submit_team(committer, "after"),
    ]
    let_go.set()
    assert [future.result(10) for future in futures] == ["before", "locked", "after"]
    assert Team.objects.count() == 3


def test_a_database_that_stays_locked_is_reported(
    committer: GroupCommit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)

    def locked() -> None:
        raise OperationalError("database is locked")

    with pytest.raises(OperationalError):
        committer.submit(locked).result(10)
    assert submit_team(committer, "next").result(10) == "next"


def test_closing_writes_what_waits_and_takes_no_more(committer: GroupCommit) -> None:
    let_go, _ = hold(committer)
    futures = [submit_team(committer, f"{number}") for number in range(300)]
    let_go.set()
    assert committer.close(timeout=10)
    assert all(future.done() for future in futures)
    assert Team.objects.count() == 300
    with pytest.raises(Closed):
        submit_team(committer, "late")


async def test_the_loop_goes_on_while_others_commit(committer: GroupCommit) -> None:
    let_go, _ = hold(committer)
    waiting = asyncio.create_task(committer.commit(lambda: new_team("async")))
    for _ in range(5):
        await asyncio.sleep(0.001)
    assert not waiting.done()
    let_go.set()
    assert await waiting == "async"


def test_sqlite_commits_reach_the_disk() -> None:
    if connection.vendor != "sqlite":
        pytest.skip("pragmas are SQLite's")
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA synchronous")
        assert cursor.fetchone() == (2,)  # FULL
        cursor.execute("PRAGMA journal_mode")
        assert cursor.fetchone() == ("wal",)
