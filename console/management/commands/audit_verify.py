"""`manage.py audit_verify [--export FILE]`: check the audit log, or an export of it; exit code 0 when it is
intact, 1 when it is not.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from console.audit.verify import verify, verify_export


class Command(BaseCommand):
    help = "Check that no audit entry was changed, removed, added or moved."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--export", type=Path, help="JSON lines that the console exported")

    def handle(self, *args: Any, export: Path | None = None, **options: Any) -> None:
        if export is None:
            verdict = verify()
        else:
            with export.open(encoding="utf-8") as lines:
                verdict = verify_export(lines)
        if verdict.is_intact:
            self.stdout.write(f"The audit log is intact: {verdict.num_entries} entries.")
            return
        self.stdout.write(f"The audit log is NOT intact at entry {verdict.first_bad}: {verdict.reason}.")
        sys.exit(1)
