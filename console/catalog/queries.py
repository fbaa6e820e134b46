"""What is served under which name: read by the gateway and the pages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from console.catalog.models import ServedModel
from console.database import read


@dataclass(frozen=True, slots=True)
class Served:
    """A public model name and the id of the revision that answers to it."""

    name: str
    revision: str
    created_at: datetime


async def served_models() -> tuple[Served, ...]:
    """Every name that has a revision, in order of name."""
    return await read(list_served_models)


async def revision_for(name: str) -> str | None:
    """The id of the revision that answers to `name` now; None for a name that nothing answers to."""
    return await read(lambda: _revision_for(name))


def list_served_models() -> tuple[Served, ...]:
    """`served_models` for code that does not await."""
    rows = ServedModel.objects.filter(current__isnull=False).order_by("name")
    return tuple(Served(row.name, str(row.current_id), row.created_at) for row in rows)


def _revision_for(name: str) -> str | None:
    found = ServedModel.objects.filter(name=name).values_list("current_id", flat=True)
    return next(iter(found), None)
