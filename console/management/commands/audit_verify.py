"""`manage.py audit_verify [--export FILE] [--checkpoint FILE]`: check the audit log, or an export of it; exit
code 0 when it is intact and there is no alarm, 1 otherwise.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from console.audit.alarm import ALARMS
from console.audit.checkpoint import BadCheckpoint, Checkpoint, from_line
from console.audit.verify import Verdict, verify, verify_export
from console.audit.watch import alarm_of


class Command(BaseCommand):
    help = "Check that no audit entry was changed, removed, added or moved."

    def add_arguments(self, parser: CommandParser) -> None:
        what = parser.add_mutually_exclusive_group()
        what.add_argument("--export", type=Path, help="JSON lines that the console exported")
        what.add_argument(
            "--checkpoint",
            type=Path,
            help="signed checkpoints kept elsewhere, one a line: the log must have them",
        )

    def handle(
        self, *args: Any, export: Path | None = None, checkpoint: Path | None = None, **options: Any
    ) -> None:
        if export is not None:
            with export.open(encoding="utf-8") as lines:
                verdict = verify_export(lines)
        else:
            verdict = verify(witnesses=witnesses_of(checkpoint) if checkpoint else ())
            alarm_of(verdict)
        self._say(verdict)
        alarm = ALARMS.current()
        if alarm is not None and verdict.is_intact and export is None:
            since = f"There is an alarm since {alarm.at}: {alarm.reason}."
            self.stdout.write(f"{since} `manage.py audit_clear_alarm` ends it, with a reason.")
            sys.exit(1)

    def _say(self, verdict: Verdict) -> None:
        if verdict.is_intact:
            self.stdout.write(f"The audit log is intact: {verdict.num_entries} entries.")
            return
        self.stdout.write(f"The audit log is NOT intact at entry {verdict.first_bad}: {verdict.reason}.")
        sys.exit(1)


def witnesses_of(file: Path) -> list[Checkpoint]:
    try:
        lines = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
        found = [from_line(line, origin=f"line {number}") for number, line in enumerate(lines, start=1)]
    except (OSError, ValueError, BadCheckpoint) as error:
        raise CommandError(f"{file} holds no checkpoints of this server: {error}") from error
    if not found:
        raise CommandError(f"{file} holds no checkpoint.")
    return found
