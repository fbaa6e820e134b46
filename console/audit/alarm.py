"""The alarm that the log is not what was written: kept in DATA_DIR until a person clears it, with a reason.

Only the first one is kept: what follows from it is seen by looking.
"""

from __future__ import annotations

import json
import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock

from django.conf import settings
from django.utils import timezone

from console.audit.checkpoint import write_durably
from monitoring.metrics import AUDIT_ALARM

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Alarm:
    """What was found, and when. `first_bad`: the first entry that is wrong or missing, if known."""

    at: str
    reason: str
    first_bad: int | None = None


class Alarms:
    """One alarm at a time, the same for every process of this DATA_DIR."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._unwritten: Alarm | None = None  # the disk would not take it

    def sound(self, reason: str, *, first_bad: int | None = None) -> None:
        """Keep an alarm, unless one stands already. Never raises: what is being done goes on."""
        with self._lock:
            if self._current() is not None:
                return
            AUDIT_ALARM.set(1)
            alarm = Alarm(timezone.now().isoformat(timespec="seconds"), reason, first_bad)
            logger.critical("AUDIT ALARM: %s (entry %s)", reason, first_bad or "unknown")
            try:
                write_durably(Path(settings.AUDIT_ALARM), json.dumps(asdict(alarm)))
            except OSError:
                logger.exception("the audit alarm cannot be written down; it is kept in memory")
                self._unwritten = alarm

    def current(self) -> Alarm | None:
        with self._lock:
            alarm = self._current()
        AUDIT_ALARM.set(alarm is not None)
        return alarm

    def silence(self) -> None:
        with self._lock:
            self._unwritten = None
            Path(settings.AUDIT_ALARM).unlink(missing_ok=True)
            AUDIT_ALARM.set(0)

    def _current(self) -> Alarm | None:
        try:
            return Alarm(**json.loads(Path(settings.AUDIT_ALARM).read_text()))
        except FileNotFoundError:
            return self._unwritten
        except (OSError, ValueError, TypeError):
            return Alarm("", "the file of the alarm is not readable")


ALARMS = Alarms()
