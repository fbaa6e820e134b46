"""`manage.py audit_clear_alarm --reason TEXT`: answer for the log as it stands, after having looked."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from console.audit.actions import MAX_REASON, NoAlarm, NoReason, clear_alarm
from console.audit.actor import Actor


class Command(BaseCommand):
    help = "End the audit log's alarm with an entry that says why; the chain is checked from there on."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--reason", required=True, help="what was found out, for the log")

    def handle(self, *args: Any, reason: str, **options: Any) -> None:
        try:
            seq = clear_alarm(actor=Actor.system("command line"), reason=reason)
        except NoAlarm as error:
            raise CommandError("There is no alarm.") from error
        except NoReason as error:
            raise CommandError(f"--reason takes 1 to {MAX_REASON} characters.") from error
        self.stdout.write(f"The alarm is cleared: entry {seq} says why.")
