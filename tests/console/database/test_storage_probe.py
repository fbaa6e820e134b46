"""A full disk, a locked database: 503 soon, nothing begun, nothing lost, and well by itself."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.test import Client

from console.accounts.models import Team, User
from console.accounts.roles import Role
from console.api.errors import answer
from console.audit.models import Entry
from console.database.group_commit import STUCK, GroupCommit, Unwritable, ledger
from console.database.storage_probe import STORAGE, Storage
from console.gateway.errors import as_api_error
from console.keys.actions import IssuedKey
from console.limits.models import Ticket
from console.limits.reserve import reserve
from console.limits.settle import settle
from tests.console.limits.requests import caller_of, ended

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "sqlite", reason="SQLite's lock"),
]


@pytest.fixture
def committer() -> Iterator[GroupCommit]:
    one = GroupCommit()
    yield one
    one.close()


@pytest.fixture
def locked() -> Iterator[Callable[[], None]]:
    """Another process holds the database, until it is told to let go."""
    other = sqlite3.connect(connection.settings_dict["NAME"], isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    held = [True]

    def let_go() -> None:
        if held.pop() if held else False:
            other.execute("ROLLBACK")

    yield let_go
    let_go()
    other.close()


def full() -> None:
    raise OperationalError("database or disk is full")


async def test_what_fails_on_a_full_disk_is_told_at_once_and_tried_once(committer: GroupCommit) -> None:
    tries: list[int] = []

    def work() -> None:
        tries.append(1)
        full()

    with pytest.raises(Unwritable, match="disk is full"):
        await committer.admit(work)
    assert len(tries) == 2  # in its group, and alone
    with pytest.raises(Unwritable, match="disk is full"):
        await committer.admit(work)
    assert len(tries) == 2  # refused unseen
    assert committer.trouble() is not None


async def test_it_recovers_by_itself(committer: GroupCommit, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unwritable):
        await committer.admit(full)
    monkeypatch.setattr("console.database.group_commit.TRY_AGAIN_SECONDS", 0.0)
    assert await committer.admit(lambda: 7) == 7
    assert committer.trouble() is None


async def test_who_waits_for_a_lock_is_told_and_what_they_wanted_is_not_done_later(
    committer: GroupCommit, locked: Callable[[], None]
) -> None:
    done: list[str] = []
    with pytest.raises(Unwritable):
        await committer.admit(lambda: done.append("late"))
    assert committer.trouble() == STUCK
    with pytest.raises(Unwritable):
        await committer.admit(lambda: done.append("later"))
    locked()
    await committer.commit(lambda: done.append("now"))
    assert done == ["now"] and committer.trouble() is None


async def test_a_reservation_that_nobody_waits_for_leaves_no_ticket(
    issued: IssuedKey, locked: Callable[[], None]
) -> None:
    with pytest.raises(Unwritable) as error:
        await reserve(caller=caller_of(issued.key), request_id="r", prompt_tokens=1, output_tokens=1)
    locked()
    await ledger().commit(lambda: None)
    assert not await Ticket.objects.aexists()
    said = as_api_error(error.value)
    assert said is not None and (said.status, said.code) == (503, "storage_unavailable")
    assert said.headers["retry-after"] == "1"


async def test_a_request_is_settled_once_there_is_room_again(
    issued: IssuedKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticket = await reserve(caller=caller_of(issued.key), request_id="r", prompt_tokens=1, output_tokens=1)
    monkeypatch.setattr("console.limits.settle.TRY_AGAIN_SECONDS", 0.01)
    from console.limits import settle as settling

    tries: list[int] = []
    settle_now = settling.settle_now

    def full_at_first(*arguments: Any, **named: Any) -> bool:
        tries.append(1)
        if len(tries) < 6:
            full()
        return settle_now(*arguments, **named)

    monkeypatch.setattr(settling, "settle_now", full_at_first)
    await settle(ticket, record=ended())
    assert len(tries) >= 6 and not await Ticket.objects.aexists()


def test_a_trial_writes_and_is_not_made_for_every_question(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = Storage()
    assert storage.why_not() is None
    before = ledger().num_transactions
    for _ in range(50):
        assert storage.why_not() is None
    assert ledger().num_transactions == before


def test_a_trial_finds_a_lock_and_a_disk_that_takes_no_file(
    locked: Callable[[], None], settings: Any, tmp_path: Any
) -> None:
    assert Storage().why_not() == STUCK
    locked()
    ledger().submit(lambda: None).result(30)
    assert Storage().why_not() is None
    settings.DATA_DIR = tmp_path / "gone"
    assert "gone takes no file" in str(Storage().why_not())


@pytest.fixture
def admin(make_user: Callable[[Role], User]) -> Client:
    client = Client(raise_request_exception=False)
    client.force_login(make_user(Role.ADMIN), backend="django.contrib.auth.backends.ModelBackend")
    return client


def test_a_page_that_would_write_says_503_and_changes_nothing(
    admin: Client, locked: Callable[[], None]
) -> None:
    before = Entry.objects.count(), Team.objects.count()
    team = Team.objects.values_list("pk", flat=True)[0]
    connection.close()  # as each request of the server, this one makes a connection of its own
    said = admin.post("/keys/issue", {"name": "x", "team": team, "scopes": ["chat"]})
    assert (said.status_code, said.headers["retry-after"]) == (503, "1")
    assert "Nothing can be saved now" in said.content.decode()
    stranger = Client(raise_request_exception=False)
    assert stranger.post("/account/sign-in/", {"login": "x", "password": "y"}).status_code == 503
    said = admin.post("/api/v1/keys", {"name": "x"}, content_type="application/json")
    assert (said.status_code, said.json()["error"]["code"]) == (503, "storage_unavailable")
    assert admin.get("/keys/").status_code == 200  # what is only read is shown
    locked()
    connection.close()
    assert (Entry.objects.count(), Team.objects.count()) == before
    assert admin.post("/keys/issue", {"name": "x", "team": team, "scopes": ["chat"]}).status_code == 302


def test_home_says_that_nothing_can_be_saved(admin: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(STORAGE, "seen", lambda: "database or disk is full")
    page = admin.get("/").content.decode()
    assert "Nothing can be saved now" in page and "database or disk is full" in page


def test_errors_of_the_database_are_503_at_every_door() -> None:
    error = OperationalError("database or disk is full")
    assert answer(error, {}).status_code == 503
    known = as_api_error(error)
    assert known is not None and known.status == 503


def test_a_real_full_database_is_refused_and_recovers(committer: GroupCommit) -> None:
    """SQLite itself says that there is no room, by a bound on its pages."""
    name = "x" * 90

    def fill() -> None:
        connection.cursor().execute("PRAGMA max_page_count = 1")
        Team.objects.bulk_create(Team(name=f"{name}{number}") for number in range(500))

    done = threading.Event()
    future = committer.submit(fill)
    future.add_done_callback(lambda _: done.set())
    assert done.wait(60) and "full" in str(future.exception())
    with pytest.raises(Unwritable):
        asyncio.run(committer.admit(lambda: None))
    assert not Team.objects.filter(name__startswith=name).exists()
