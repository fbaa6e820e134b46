"""Appending to the audit log: with the change or not at all, one chain for all, never changed again."""

from __future__ import annotations

import threading

import pytest
from django.db import DatabaseError, connection, transaction

from console.audit import checkpoint
from console.audit.actor import Actor
from console.audit.models import AppendOnly, Entry, Head
from console.audit.verify import verify
from console.audit.write import write


@pytest.mark.django_db(transaction=True)
def test_writers_that_race_make_one_chain() -> None:
    failures: list[BaseException] = []

    def write_ten(name: str) -> None:
        try:
            for number in range(10):
                write(actor=Actor.person(name), action="test", target=str(number))
        except BaseException as failure:
            failures.append(failure)
        finally:
            connection.close()

    writers = [threading.Thread(target=write_ten, args=(f"writer {n}",)) for n in range(6)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert failures == []
    verdict = verify()
    assert (verdict.is_intact, verdict.num_entries) == (True, 60)
    kept = checkpoint.load()
    assert kept is not None and kept.seq == 60


@pytest.mark.django_db(transaction=True)
def test_an_undone_change_leaves_no_entry_and_no_gap() -> None:
    write(actor=Actor.person("a"), action="first", target="")
    with pytest.raises(RuntimeError), transaction.atomic():
        write(actor=Actor.person("a"), action="undone", target="")
        raise RuntimeError
    write(actor=Actor.person("a"), action="second", target="")
    assert list(Entry.objects.order_by("seq").values_list("seq", "action")) == [(1, "first"), (2, "second")]
    assert verify().is_intact
    kept = checkpoint.load()
    assert kept is not None and kept.seq == 2


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_entry SET actor = 'nobody'",
        "UPDATE audit_entry SET seq = seq + 1",
        "DELETE FROM audit_entry",
        "DELETE FROM audit_entry WHERE seq = 1",
    ],
)
@pytest.mark.django_db
def test_the_database_refuses_changes(statement: str) -> None:
    write(actor=Actor.person("a"), action="x", target="")
    refused = pytest.raises(DatabaseError, match="audit entries cannot be")
    with refused, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert Entry.objects.get().actor == "a"


@pytest.mark.django_db
def test_the_model_refuses_changes() -> None:
    entry = write(actor=Actor.person("a"), action="x", target="")
    entry.actor = "b"
    for change in (
        entry.save,
        entry.delete,
        Entry.objects.all().delete,
        lambda: Entry.objects.update(actor="b"),
    ):
        with pytest.raises(AppendOnly):
            change()


@pytest.mark.django_db
def test_text_of_any_kind_is_kept_and_checked() -> None:
    write(
        actor=Actor.person("ü\n\x1b[31m\x00\ud800"),
        action="x",
        target="𝄞" * 400,
        detail={"ключ": ["\u2028", None, 1.5]},
    )
    entry = Entry.objects.get()
    assert len(entry.target) == 300
    assert "\n" not in entry.detail and "\u2028" not in entry.detail
    assert verify().is_intact


@pytest.mark.django_db
def test_a_detail_that_cannot_be_written_down_exactly_is_refused() -> None:
    with pytest.raises(ValueError, match="Out of range"):
        write(actor=Actor.person("a"), action="x", target="", detail={"n": float("nan")})


SQLITE_ALONE = pytest.mark.skipif(connection.vendor != "sqlite", reason="SQLite's own words")
COLUMNS = "seq, at, actor, ip, action, target, detail, prev_hash, hash, mac"
FORGED = "'2026-01-01', 'nobody', '', 'x', '', '{}', '', '', ''"


@SQLITE_ALONE
@pytest.mark.parametrize(
    "statement",
    [
        f"REPLACE INTO audit_entry ({COLUMNS}) VALUES (2, {FORGED})",
        f"INSERT OR REPLACE INTO audit_entry ({COLUMNS}) VALUES (1, {FORGED})",
        f"INSERT OR IGNORE INTO audit_entry ({COLUMNS}) VALUES (1, {FORGED})",
        f"REPLACE INTO audit_entry (rowid, {COLUMNS}) VALUES (2, 99, {FORGED})",
        f"INSERT INTO audit_entry ({COLUMNS}) VALUES (1, {FORGED}) ON CONFLICT DO UPDATE SET actor = ''",
        "UPDATE OR REPLACE audit_entry SET seq = 1 WHERE seq = 3",
    ],
)
@pytest.mark.django_db
def test_nothing_takes_the_place_of_an_entry(statement: str) -> None:
    entries = [write(actor=Actor.person("a"), action="x", target=str(number)) for number in range(3)]
    refused = pytest.raises(DatabaseError, match="audit entries cannot be")
    with refused, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert [one.hash for one in Entry.objects.order_by("seq")] == [one.hash for one in entries]


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_head SET seq = 2",
        "UPDATE audit_head SET seq = 9",
        "UPDATE audit_head SET hash = 'e'",
        "UPDATE audit_head SET seq = 2, hash = (SELECT hash FROM audit_entry WHERE seq = 2)",
        "UPDATE audit_head SET id = 2",
        "DELETE FROM audit_head",
        "INSERT INTO audit_head (id, seq, hash) VALUES (2, 7, 'e')",
        pytest.param("REPLACE INTO audit_head (id, seq, hash) VALUES (1, 0, 'e')", marks=SQLITE_ALONE),
    ],
)
@pytest.mark.django_db
def test_the_head_only_goes_forward_to_an_entry(statement: str) -> None:
    for number in range(3):
        write(actor=Actor.person("a"), action="x", target=str(number))
    before = list(Head.objects.values())
    refused = pytest.raises(DatabaseError, match="the head of the audit log cannot be")
    with refused, transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(statement)
    assert list(Head.objects.values()) == before
    write(actor=Actor.person("a"), action="x", target="")
    assert verify().is_intact
