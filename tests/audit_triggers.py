"""The audit log's triggers, lifted and set again: as an insider with the database does it."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module

from django.db import connection

MIGRATIONS = [
    import_module(f"console.audit.migrations.{name}") for name in ("0002_append_only", "0004_codes")
]


def run(statements: Iterable[str]) -> None:
    with connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)


def lift_triggers() -> None:
    for migration in reversed(MIGRATIONS):
        run(migration.ALLOW[connection.vendor])


def set_triggers() -> None:
    for migration in MIGRATIONS:
        run(migration.FORBID[connection.vendor])
