"""The audit log tells when it was tampered with, and names the first entry that is wrong."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connection, transaction

from console.audit import checkpoint
from console.audit.actor import Actor
from console.audit.anchor import ANCHOR
from console.audit.chain import chained_hash, hash_of
from console.audit.checkpoint import Checkpoint
from console.audit.export import as_lines
from console.audit.models import Entry
from console.audit.verify import verify
from console.audit.write import write
from tests.audit_triggers import lift_triggers

pytestmark = pytest.mark.django_db

NUM_ENTRIES = 40
NUM_ROUNDS = 60
COLUMNS = ("at", "actor", "ip", "action", "target", "detail", "prev_hash", "hash")


@pytest.fixture
def log() -> None:
    """Forty entries, and a database whose triggers a powerful insider has dropped."""
    for number in range(NUM_ENTRIES):
        write(
            actor=Actor.person(f"user {number % 3}"),
            action="key.issued",
            target=f"key:{number}",
            detail={"n": number},
        )
    lift_triggers()


def sql(statement: str, *values: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)


def edit(draw: random.Random) -> int:
    seq, column = draw.randint(1, NUM_ENTRIES), draw.choice(COLUMNS)
    entry = Entry.objects.get(seq=seq)
    value = getattr(entry, column)
    value = value + timedelta(microseconds=1) if column == "at" else "!" + value[1:]
    sql(f"UPDATE audit_entry SET {column} = %s WHERE seq = %s", value, seq)
    return seq


def delete(draw: random.Random) -> int:
    seq = draw.randint(1, NUM_ENTRIES - 1)
    sql("DELETE FROM audit_entry WHERE seq = %s", seq)
    return seq


def delete_and_close_the_gap(draw: random.Random) -> int:
    seq = delete(draw)
    for later in range(seq + 1, NUM_ENTRIES + 1):
        sql("UPDATE audit_entry SET seq = %s WHERE seq = %s", later - 1, later)
    return seq


def insert(draw: random.Random) -> int:
    """A made-up entry with a hash of its own that is right, the later ones moved up."""
    seq = draw.randint(2, NUM_ENTRIES)
    for later in range(NUM_ENTRIES, seq - 1, -1):
        sql("UPDATE audit_entry SET seq = %s WHERE seq = %s", later + 1, later)
    before = Entry.objects.get(seq=seq - 1)
    entry = Entry(seq=seq, at=before.at, actor="mallory", action="x", target="", prev_hash=before.hash)
    entry.hash = hash_of(entry)
    entry.save()
    return seq  # its hash is right, its code is missing


def swap(draw: random.Random) -> int:
    one, other = sorted(draw.sample(range(1, NUM_ENTRIES + 1), 2))
    sql("UPDATE audit_entry SET seq = -1 WHERE seq = %s", one)
    sql("UPDATE audit_entry SET seq = %s WHERE seq = %s", one, other)
    sql("UPDATE audit_entry SET seq = %s WHERE seq = -1", other)
    return one


def truncate(draw: random.Random) -> int:
    last = draw.randint(0, NUM_ENTRIES - 1)
    sql("DELETE FROM audit_entry WHERE seq > %s", last)
    return last + 1


@pytest.mark.parametrize("mutate", [edit, delete, delete_and_close_the_gap, insert, swap, truncate])
def test_every_mutation_is_found_at_its_place(log: None, mutate: Callable[[random.Random], int]) -> None:
    assert verify().is_intact
    draw = random.Random(11)
    for _ in range(NUM_ROUNDS):
        with transaction.atomic():
            first_bad = mutate(draw)
            verdict = verify()
            assert (verdict.is_intact, verdict.first_bad) == (False, first_bad), verdict.reason
            transaction.set_rollback(True)
    assert verify().is_intact


def rewrite_from(seq: int) -> None:
    """Make the chain right again after a change: what an insider with the algorithm can do."""
    prev_hash = Entry.objects.get(seq=seq - 1).hash if seq > 1 else "0" * 64
    for entry in list(Entry.objects.filter(seq__gte=seq).order_by("seq")):
        entry.prev_hash = prev_hash
        prev_hash = hash_of(entry)
        sql(
            "UPDATE audit_entry SET prev_hash = %s, hash = %s WHERE seq = %s",
            entry.prev_hash,
            prev_hash,
            entry.seq,
        )


def test_a_rewritten_chain_has_not_this_servers_codes(log: None) -> None:
    sql("UPDATE audit_entry SET actor = 'someone else' WHERE seq = 20")
    rewrite_from(20)
    verdict = verify()
    assert verdict.first_bad == 20 and "code" in verdict.reason


def test_an_older_copy_of_the_database_does_not_fit_the_signed_checkpoint(log: None) -> None:
    checkpoint.store(Checkpoint(NUM_ENTRIES + 3, "f" * 64, keyed_from=1))
    assert verify().first_bad == NUM_ENTRIES + 1


def test_a_checkpoint_without_the_secret_is_worth_nothing(log: None, settings: Any) -> None:
    checkpoint.store(Checkpoint(10, Entry.objects.get(seq=10).hash, keyed_from=1))
    assert verify().is_intact
    path = Path(settings.AUDIT_CHECKPOINT)
    kept = json.loads(path.read_text())
    for forged in (
        json.dumps(kept | {"seq": 9}),
        json.dumps(kept | {"keyed_from": None}),
        "nonsense",
        "",
        "[]",
    ):
        path.write_text(forged)
        assert not verify().is_intact
    path.unlink()
    assert not verify().is_intact


def test_the_checkpoint_never_goes_backwards(log: None) -> None:
    ANCHOR.advance(seq=5)
    ANCHOR.advance(seq=4)
    assert checkpoint.load() == Checkpoint(5, Entry.objects.get(seq=5).hash, keyed_from=1)


def test_an_empty_log_is_intact() -> None:
    assert verify().is_intact


def test_the_command_says_it_in_one_line_and_by_its_exit_code(log: None) -> None:
    out = StringIO()
    call_command("audit_verify", stdout=out)
    assert out.getvalue() == f"The audit log is intact: {NUM_ENTRIES} entries.\n"
    sql("DELETE FROM audit_entry WHERE seq = 7")
    out = StringIO()
    with pytest.raises(SystemExit) as end:
        call_command("audit_verify", stdout=out)
    assert end.value.code == 1
    assert out.getvalue().count("\n") == 1 and "entry 7" in out.getvalue()


def test_the_export_can_be_checked_without_pilothouse(log: None) -> None:
    import hashlib

    prev_hash = "0" * 64
    for line in as_lines(Entry.objects.order_by("seq")):
        row = json.loads(line)
        assert row["prev_hash"] == prev_hash
        columns = [
            row[name] for name in ("seq", "at", "actor", "ip", "action", "target", "detail", "prev_hash")
        ]
        prev_hash = hashlib.sha256(json.dumps(columns, separators=(",", ":")).encode()).hexdigest()
        assert row["hash"] == prev_hash


def test_no_column_can_flow_into_its_neighbour() -> None:
    from django.utils import timezone

    same = {"seq": 1, "at": timezone.now(), "ip": "", "target": "t", "detail": "{}", "prev_hash": ""}
    assert chained_hash(actor="ab", action="c", **same) != chained_hash(actor="a", action="bc", **same)  # type: ignore[arg-type]
