"""What somebody does to the audit log who can write to the database, and to nothing else: no key, no file."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.db import connection

from console.audit.chain import hash_of
from console.audit.models import Entry
from tests.audit_triggers import lift_triggers, set_triggers

Attack = Callable[[], None]


def sql(statement: str, *values: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement, values)


def unseen(attack: Attack) -> None:
    """Without the triggers, which then stand as before."""
    lift_triggers()
    attack()
    set_triggers()


def last() -> Entry:
    return Entry.objects.order_by("-seq")[0]


def rewrite_from(seq: int) -> None:
    """Make hashes and head right again: anybody can, who knows the algorithm."""
    before = Entry.objects.filter(seq=seq - 1).first()
    prev_hash = before.hash if before else "0" * 64
    for entry in list(Entry.objects.filter(seq__gte=seq).order_by("seq")):
        entry.prev_hash = prev_hash
        prev_hash = hash_of(entry)
        columns = (entry.prev_hash, prev_hash, entry.seq)
        sql("UPDATE audit_entry SET prev_hash = %s, hash = %s WHERE seq = %s", *columns)
    set_head(last())


def set_head(entry: Entry) -> None:
    sql("UPDATE audit_head SET seq = %s, hash = %s", entry.seq, entry.hash)


def edit() -> None:
    sql("UPDATE audit_entry SET actor = actor || '!' WHERE seq = 3")


def edit_and_rewrite() -> None:
    edit()
    rewrite_from(3)


def edit_the_last_and_rewrite() -> None:
    sql("UPDATE audit_entry SET target = 'key:other' WHERE seq = %s", last().seq)
    rewrite_from(last().seq)


def take_codes_off_and_rewrite() -> None:
    edit()
    sql("UPDATE audit_entry SET mac = ''")
    sql("UPDATE audit_head SET keyed_from = NULL")
    rewrite_from(1)


def delete_and_rewrite() -> None:
    sql("DELETE FROM audit_entry WHERE seq = 4")
    for later in range(5, last().seq + 1):
        sql("UPDATE audit_entry SET seq = %s WHERE seq = %s", later - 1, later)
    rewrite_from(4)


def delete_in_the_middle() -> None:
    sql("DELETE FROM audit_entry WHERE seq = 4")


def cut_off() -> None:
    sql("DELETE FROM audit_entry WHERE seq > %s", last().seq - 3)


def cut_off_and_set_head() -> None:
    cut_off()
    set_head(last())


def empty() -> None:
    sql("DELETE FROM audit_entry")
    sql("DELETE FROM audit_head")


def append() -> None:
    """An entry of its own with a right hash, the head moved to it: the triggers need not even be lifted."""
    entry = last()
    forged = Entry(seq=entry.seq + 1, at=entry.at, actor="admin", action="key.issued", prev_hash=entry.hash)
    forged.hash = hash_of(forged)
    forged.save()
    set_head(forged)


def append_with_the_code_of_another() -> None:
    code = last().mac
    append()
    sql("UPDATE audit_entry SET mac = %s WHERE seq = %s", code, last().seq)


def replace() -> None:
    entry = Entry.objects.get(seq=3)
    columns = (entry.seq, entry.at, "nobody", entry.action, entry.prev_hash, entry.hash, entry.mac)
    sql("DELETE FROM audit_entry WHERE seq = %s", entry.seq)
    sql(
        "INSERT INTO audit_entry (seq, at, actor, ip, action, target, detail, prev_hash, hash, mac)"
        " VALUES (%s, %s, %s, '', %s, '', '{}', %s, %s, %s)",
        *columns,
    )


def move_head_back() -> None:
    set_head(Entry.objects.get(seq=2))


def move_head_on() -> None:
    sql("UPDATE audit_head SET seq = seq + 5")


def change_head() -> None:
    sql("UPDATE audit_head SET hash = %s", "e" * 64)


def delete_head() -> None:
    sql("DELETE FROM audit_head")


# What the next write puts right: the entries are as they were, and the alarm has been raised.
OF_THE_HEAD: list[Attack] = [move_head_back, change_head, delete_head]
ATTACKS: list[Attack] = [
    edit,
    edit_and_rewrite,
    edit_the_last_and_rewrite,
    take_codes_off_and_rewrite,
    delete_in_the_middle,
    delete_and_rewrite,
    cut_off,
    cut_off_and_set_head,
    empty,
    append,
    append_with_the_code_of_another,
    replace,
    move_head_on,
    *OF_THE_HEAD,
]
