"""What somebody has to look into, shown on the home page until it is over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from django.urls import reverse
from django.utils.translation import gettext as _

from console.audit.alarm import ALARMS
from console.database.after_commit import FAILURES
from console.database.storage_probe import STORAGE


@dataclass(frozen=True, slots=True)
class Problem:
    kind: Literal["warn", "bad"]
    text: str
    detail: str = ""
    link: str = ""  # where it is looked into


def problems() -> list[Problem]:
    """The worst first."""
    found = []
    if (alarm := ALARMS.current()) is not None:
        found.append(
            Problem(
                "bad",
                _("The audit log is not what was written. An admin has to look into it."),
                alarm.reason,
                reverse("admin:audit_entry_changelist"),
            )
        )
    if (reason := STORAGE.seen()) is not None:
        text = _("Nothing can be saved now: requests are answered 503 until that is over.")
        found.append(Problem("bad", text, reason))
    for one in FAILURES.recent():
        text = _("A change was made, but what follows it failed %(number)d times: %(name)s.")
        found.append(Problem("warn", text % {"number": one.count, "name": one.name}))
    return found
