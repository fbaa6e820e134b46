"""`manage.py reset_password NAME`: a new password for an account, generated or read from stdin."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.exceptions import ValidationError
from django.core.management.base import CommandError

from console.accounts.actions import UnknownUser, reset_password
from console.audit.actor import Actor
from console.management.database_command import DatabaseCommand


class Command(DatabaseCommand):
    help = "Give an account a generated password and print it; with --stdin, take the password from there."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("name")
        parser.add_argument("--stdin", action="store_true", help="read the password from standard input")

    def handle(self, *args: Any, **options: Any) -> None:
        given = sys.stdin.readline().rstrip("\n") if options["stdin"] else None
        try:
            password = reset_password(
                actor=Actor.system("command line"), username=options["name"], password=given
            )
        except UnknownUser as error:
            raise CommandError(str(error)) from error
        except ValidationError as error:
            raise CommandError(" ".join(error.messages)) from error
        if given is None:
            self.stdout.write(password)
