"""`manage.py audit_checkpoint`: print the signed checkpoint, to be kept elsewhere."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from console.audit.checkpoint import BadCheckpoint, as_line, load


class Command(BaseCommand):
    help = "Print how far the audit log was right, signed, in one line for `audit_verify --checkpoint`."

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            kept = load()
        except BadCheckpoint as error:
            raise CommandError(f"{error}: see what `manage.py audit_verify` says.") from error
        if kept is None:
            raise CommandError("There is no checkpoint: the audit log has no entry yet, or the file is gone.")
        self.stdout.write(as_line(kept))
