"""`manage.py audit_verify`: check the audit log; exit code 0 when it is intact, 1 when it is not."""

from __future__ import annotations

import sys
from typing import Any

from django.core.management.base import BaseCommand

from console.audit.verify import verify


class Command(BaseCommand):
    help = "Check that no audit entry was changed, removed, added or moved."

    def handle(self, *args: Any, **options: Any) -> None:
        verdict = verify()
        if verdict.is_intact:
            self.stdout.write(f"The audit log is intact: {verdict.num_entries} entries.")
            return
        self.stdout.write(f"The audit log is NOT intact at entry {verdict.first_bad}: {verdict.reason}.")
        sys.exit(1)
