"""What follows a commit: by itself each, shut-outs first, never an answer of 500 for what was done."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from django.db import transaction
from django.test import Client

from console.accounts.models import User
from console.accounts.roles import Role
from console.audit.actor import Actor
from console.audit.models import Entry
from console.database.after_commit import FAILURES, after_commit
from console.keys.actions import IssuedKey, revoke
from console.keys.models import ApiKey
from monitoring.metrics import AFTER_COMMIT_FAILURES
from tests.test_house_rules import MODULES

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture(autouse=True)
def _nothing_failed_before() -> Iterator[None]:
    FAILURES.forget()
    yield
    FAILURES.forget()


def broken() -> None:
    raise RuntimeError("no")


def test_shut_outs_go_first_and_one_failure_stops_no_other() -> None:
    done: list[str] = []
    before = AFTER_COMMIT_FAILURES.labels("a")._value.get()  # type: ignore[no-untyped-call]
    with transaction.atomic():
        after_commit(broken, name="a")
        after_commit(lambda: done.append("later"), name="b")
        with transaction.atomic():
            after_commit(broken, name="a", is_shut_out=True)
            after_commit(lambda: done.append("shut out"), name="c", is_shut_out=True)
        assert done == []
    assert done == ["shut out", "later"]
    assert [(one.name, one.count) for one in FAILURES.recent()] == [("a", 2)]
    assert AFTER_COMMIT_FAILURES.labels("a")._value.get() == before + 2  # type: ignore[no-untyped-call]


def test_nothing_follows_what_was_rolled_back() -> None:
    done: list[str] = []
    with transaction.atomic():
        with pytest.raises(RuntimeError), transaction.atomic():
            after_commit(lambda: done.append("undone"), name="a", is_shut_out=True)
            broken()
        after_commit(lambda: done.append("kept"), name="b", is_shut_out=True)
    assert done == ["kept"]


def test_outside_a_transaction_it_happens_at_once() -> None:
    done: list[str] = []
    after_commit(lambda: done.append("now"), name="a", is_shut_out=True)
    after_commit(broken, name="a")
    assert done == ["now"]


@pytest.fixture
def with_a_broken_anchor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the checkpoint's part does wrong, and the reconciler's."""

    def advance(*, seq: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("console.audit.write.ANCHOR.advance", advance)


def test_a_revoked_keys_streams_end_whatever_else_fails(
    issued: IssuedKey, with_a_broken_anchor: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ended: list[str] = []
    monkeypatch.setattr("console.keys.actions.end_streams", ended.append)
    assert revoke(actor=Actor.person("a"), key=issued.key)
    assert ended == [issued.key.public_id]
    assert [one.name for one in FAILURES.recent()] == ["audit checkpoint"]


def test_what_was_made_is_shown_and_the_failure_too(
    make_user: Callable[[Role], User], with_a_broken_anchor: None
) -> None:
    client = Client(raise_request_exception=False)
    client.force_login(make_user(Role.ADMIN), backend="django.contrib.auth.backends.ModelBackend")
    form = {"name": "made", "team": User.objects.get().teams.get().pk, "scopes": ["chat"]}
    answer = client.post("/keys/issue", form, follow=True)
    key = ApiKey.objects.get(name="made")
    assert answer.status_code == 200 and f"ph_{key.public_id}" in answer.content.decode()
    assert Entry.objects.filter(action="key.issued").exists()
    assert "audit checkpoint" in client.get("/").content.decode()


def test_a_disabled_persons_streams_end_before_anything_else(
    make_user: Callable[[Role], User], monkeypatch: pytest.MonkeyPatch
) -> None:
    from console.accounts.actions import set_active

    order: list[str] = []
    user = make_user(Role.VIEWER)
    monkeypatch.setattr("console.accounts.actions.end_streams", order.append)
    monkeypatch.setattr("console.audit.write.ANCHOR.advance", lambda seq: order.append("checkpoint"))
    set_active(actor=Actor.person("a"), username=user.username, is_active=False)
    assert order == [f"user:{user.pk}", "checkpoint"]


def calls_of(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.Attribute(attr="on_commit") | ast.Name(id="on_commit") | ast.alias(name="on_commit"):
                yield path.name


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.name)
def test_there_is_one_way_to_do_something_after_a_commit(path: Path) -> None:
    assert list(calls_of(path)) == [] or path.name == "after_commit.py"
