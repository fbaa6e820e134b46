"""`manage.py revoke_key PUBLIC_ID`: end an API key; its next request is refused."""

from __future__ import annotations

from argparse import ArgumentParser
from typing import Any

from django.core.management.base import CommandError

from console.audit.actor import Actor
from console.keys.actions import revoke
from console.keys.models import ApiKey
from console.management.database_command import DatabaseCommand


class Command(DatabaseCommand):
    help = "Revoke an API key, named by its public id (the part between the underscores)."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("public_id")

    def handle(self, *args: Any, **options: Any) -> None:
        key = ApiKey.objects.filter(public_id=options["public_id"]).first()
        if key is None:
            raise CommandError("There is no key of that public id.")
        if not revoke(actor=Actor.system("command line"), key=key):
            raise CommandError(f"{key} has been revoked before.")
        self.stdout.write(f"Revoked {key}.")
