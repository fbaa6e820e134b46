"""What is served under which name: read by the gateway and the pages."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db.models import Prefetch, QuerySet

from console.catalog.failure import NEVER
from console.catalog.models import Arm, Revision, Route
from console.database.async_read import read
from console.database.prepared_statements import TEXT, Select, Slot


@dataclass(frozen=True, slots=True)
class Served:
    """A public name, the revisions that answer to it, and their shares in percent, the largest first."""

    name: str
    shares: dict[str, int]
    created_at: datetime

    @property
    def revision(self) -> str:
        """The one that answers most."""
        return next(iter(self.shares))


async def served_models() -> tuple[Served, ...]:
    """Every name that has a revision, in order of name."""
    return await read(list_served_models)


async def shares_of(name: str) -> dict[str, int]:
    """Revision id -> percent, in the order of the route's arms; empty for a name that nothing answers to."""
    return await read(lambda: shares_now(name))


def shares_now(name: str) -> dict[str, int]:
    """`shares_of` for code that does not await."""
    return dict(_SHARES(name=name))


def _arms_of_name() -> QuerySet[Arm, tuple[Any, ...]]:
    arms = Arm.objects.filter(route__name=Slot("name", TEXT))
    return arms.order_by("id").values_list("revision_id", "weight")


_SHARES = Select(_arms_of_name)


async def has_revision(model: str, revision: str) -> bool:
    """Whether a model has this revision, with files to load."""
    found = Revision.objects.filter(pk=revision, model__name=model, deployment__files_deleted_at=None)
    return await read(found.exists)


def list_served_models() -> tuple[Served, ...]:
    """`served_models` for code that does not await. What can never be loaded is left out."""
    may_load = Arm.objects.exclude(revision__deployment__failure__in=NEVER)
    routes = Route.objects.prefetch_related(Prefetch("arms", may_load)).order_by("name")
    return tuple(served for route in routes if (served := _served(route)) is not None)


def _served(route: Route) -> Served | None:
    arms = sorted(route.arms.all(), key=lambda arm: (-arm.weight, arm.pk))
    if not arms:
        return None
    return Served(route.name, {str(arm.revision_id): arm.weight for arm in arms}, route.created_at)
