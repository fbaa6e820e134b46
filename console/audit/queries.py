"""Reads of the audit log for pages."""

from __future__ import annotations

from django.db.models import QuerySet

from console.audit import visibility
from console.audit.actor import Actor
from console.audit.models import Entry


def recent_entries(actor: Actor, *, limit: int) -> QuerySet[Entry]:
    """The newest entries, newest first."""
    return visibility.visible_to(actor, Entry.objects.all()).order_by("-seq")[:limit]


def last_seq() -> int:
    """How many entries there are: their numbers have no gaps."""
    return Entry.objects.order_by("-seq").values_list("seq", flat=True).first() or 0


def known_actions() -> list[str]:
    """Every action that was ever written, in order: a step through the index for each, not for each entry."""
    found: list[str] = []
    actions = Entry.objects.order_by("action").values_list("action", flat=True)
    while (action := actions.filter(action__gt=found[-1] if found else "").first()) is not None:
        found.append(action)
    return found


def find_entries(reader: Actor, *, actor: str = "", action: str = "", target: str = "") -> QuerySet[Entry]:
    """The entries that have exactly what is named; an empty name asks for all."""
    wanted = {"actor": actor, "action": action, "target": target}
    return visibility.visible_to(reader, Entry.objects.all()).filter(
        **{name: value for name, value in wanted.items() if value}
    )
