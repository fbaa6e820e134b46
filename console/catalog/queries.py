"""What is served under which name: read by the gateway and the pages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from console.catalog.models import ServedModel


@dataclass(frozen=True, slots=True)
class Served:
    """A public model name and the id of the revision that answers to it."""

    name: str
    revision: str
    created_at: datetime


async def served_models() -> tuple[Served, ...]:
    """Every name that has a revision, in order of name."""
    rows = ServedModel.objects.filter(current__isnull=False).order_by("name")
    return tuple([_served(row) async for row in rows])


async def revision_for(name: str) -> str | None:
    """The id of the revision that answers to `name` now; None for a name that nothing answers to."""
    row = await ServedModel.objects.filter(name=name, current__isnull=False).afirst()
    return None if row is None else _served(row).revision


def _served(row: ServedModel) -> Served:
    return Served(name=row.name, revision=str(row.current_id), created_at=row.created_at)
