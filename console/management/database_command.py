"""The base of commands that read or write rows: on a database of another version they say what to do."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import connection
from django.db.migrations.executor import MigrationExecutor

NOT_PREPARED = (
    "The database is not prepared for this version: "
    "start the server once (make run), or run manage.py migrate."
)


class DatabaseCommand(BaseCommand):
    """Refuses to start where migrations are due."""

    requires_migrations_checks = True

    def check_migrations(self, *args: Any, **options: Any) -> None:
        executor = MigrationExecutor(connection)
        if executor.migration_plan(executor.loader.graph.leaf_nodes()):
            raise CommandError(NOT_PREPARED)
