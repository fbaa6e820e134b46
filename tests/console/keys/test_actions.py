"""Issuing and revoking: the row, its audit entry, and the secret nowhere."""

from __future__ import annotations

import logging
from datetime import timedelta

import pytest
from django.db import connection
from django.utils import timezone

from console.accounts.models import Team
from console.audit.actor import Actor
from console.audit.models import Entry
from console.keys import actions
from console.keys.actions import BadKey, IssuedKey, issue, revoke
from console.keys.models import ApiKey


def dump() -> str:
    """Every value of every column of the database."""
    values = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names():
            cursor.execute(f'SELECT * FROM "{table}"')
            values += [str(value) for row in cursor.fetchall() for value in row]
    return "\n".join(values)


def test_the_secret_is_in_no_column_and_no_log(team: Team, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    issued = issue(actor=Actor.person("test"), name="program", team=team)
    secret = issued.secret.split("_")[2]
    kept = dump()
    assert issued.key.public_id in kept  # the dump sees what is there
    assert secret not in kept and secret[:-6] not in kept
    assert secret not in caplog.text
    assert secret not in repr(issued)


def test_issuing_and_revoking_write_one_entry_each(issued: IssuedKey) -> None:
    assert revoke(actor=Actor.person("mara", ip="10.0.0.1"), key=issued.key)
    assert not revoke(actor=Actor.person("mara"), key=issued.key)
    entries = list(Entry.objects.order_by("seq").values_list("actor", "action", "target", "ip"))
    target = f"key:{issued.key.public_id}"
    assert entries == [("test", "key.issued", target, ""), ("mara", "key.revoked", target, "10.0.0.1")]


def test_no_key_without_its_entry(team: Team, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**kwargs: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(actions, "write", broken)
    with pytest.raises(RuntimeError):
        issue(actor=Actor.person("test"), name="program", team=team)
    assert not ApiKey.objects.exists()


def test_a_key_needs_a_name_and_a_future(team: Team) -> None:
    with pytest.raises(BadKey):
        issue(actor=Actor.person("test"), name="  ", team=team)
    with pytest.raises(BadKey):
        issue(
            actor=Actor.person("test"), name="x", team=team, expires_at=timezone.now() - timedelta(seconds=1)
        )
    assert not Entry.objects.exists()
