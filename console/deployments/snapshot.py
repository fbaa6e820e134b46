"""What the reconciler decides from: the rows of the catalog beside what the engine holds at this moment."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from django.db.models import Max

from console.catalog.models import Arm, Deployment
from console.deployments import memory_budget
from console.deployments.planner import Holding, Traffic, Wish
from console.environment import environment
from inference.protocol.stats import ModelCard


@dataclass(frozen=True, slots=True)
class Held:
    """What is in memory or on its way there, as the process knows it."""

    cards: tuple[ModelCard, ...]
    loading: Mapping[str, int]  # revision -> bytes that it needs
    leaving: Mapping[str, int]  # revision -> bytes that it holds
    in_flight: Mapping[str, int]
    used_at: Mapping[str, float]  # Unix time
    dead: frozenset[str]  # whose engine has ended: they serve nobody, and still take memory


@dataclass(frozen=True, slots=True)
class CatalogSnapshot:
    """One look at the whole."""

    now: float  # Unix time
    wishes: tuple[Wish, ...]
    holdings: tuple[Holding, ...]
    in_flight: Mapping[str, int]
    routes: Mapping[str, Traffic]
    names: Mapping[str, str]  # revision in memory -> the public name of its figures
    states: Mapping[str, str]  # revision -> observed state, as the row says

    @property
    def forced(self) -> str | None:
        return next((wish.revision for wish in self.wishes if wish.is_forced), None)

    @property
    def sleepers(self) -> frozenset[str]:
        """Those that routes lead to and that a request would wake."""
        asleep = (wish for wish in self.wishes if not wish.is_wanted and self.forced in (None, wish.revision))
        return frozenset(wish.revision for wish in asleep if self.has_traffic(wish.revision))

    def need_of(self, revision: str) -> int:
        return next(wish.need for wish in self.wishes if wish.revision == revision)

    def has_traffic(self, revision: str) -> bool:
        return self.routes.get(revision, Traffic()).weight > 0


@dataclass
class SnapshotReader:
    """Looks again and again, and remembers what rows do not say: when traffic left a revision."""

    retry_seconds: Callable[[int], float]  # after so many failures in a row
    _left_at: dict[str, float] = field(default_factory=dict)
    _weights: dict[str, int] = field(default_factory=dict)

    def look(self, held: Held, *, failures: Mapping[str, int]) -> CatalogSnapshot:
        now = time.time()
        rows = list(
            Deployment.objects.select_related("revision__model").filter(files_deleted_at=None).order_by("pk")
        )
        weights = self._follow_routes(now)
        names = dict(Arm.objects.order_by("weight").values_list("revision_id", "route__name"))
        in_memory = {card.revision for card in held.cards} | held.leaving.keys()
        return CatalogSnapshot(
            now=now,
            wishes=tuple(self._wish(row, held, failures) for row in rows),
            holdings=tuple(_holdings(held, {row.revision_id: row.memory_bytes for row in rows})),
            in_flight=held.in_flight,
            routes={
                revision: Traffic(weights.get(revision, 0), self._left_at.get(revision))
                for revision in weights.keys() | self._left_at.keys()
            },
            names={
                row.revision_id: names.get(row.revision_id, row.revision.model.name)
                for row in rows
                if row.revision_id in in_memory
            },
            states={row.revision_id: row.state for row in rows},
        )

    def _wish(self, row: Deployment, held: Held, failures: Mapping[str, int]) -> Wish:
        standard = environment().idle_seconds
        last = row.last_used_at.timestamp() if row.last_used_at else 0.0
        came = row.state_at.timestamp() if row.state == Deployment.State.READY else 0.0
        has_failed = row.state == Deployment.State.FAILED
        wait = self.retry_seconds(failures.get(row.revision_id, 0)) if has_failed else 0.0
        return Wish(
            revision=row.revision_id,
            need=memory_budget.need_of(row).bytes,
            is_wanted=row.wanted == Deployment.Wanted.LOADED,
            is_pinned=row.is_pinned,
            is_forced=row.is_forced,
            idle_seconds=standard if row.idle_seconds is None else row.idle_seconds,
            used_at=max(last, came, held.used_at.get(row.revision_id, 0.0)),
            retry_at=row.state_at.timestamp() + wait if has_failed else 0.0,
        )

    def _follow_routes(self, now: float) -> dict[str, int]:
        """Revision -> the largest share that a route gives it; notes when the last one was taken away."""
        rows = (
            Arm.objects.values("revision_id").annotate(most=Max("weight")).values_list("revision_id", "most")
        )
        weights = {revision: weight for revision, weight in rows if weight}
        for revision in self._weights.keys() - weights.keys():
            self._left_at[revision] = now
        for revision in weights:
            self._left_at.pop(revision, None)
        self._weights = weights
        return weights


def _holdings(held: Held, sizes: Mapping[str, int | None]) -> list[Holding]:
    """Everything that takes memory, each once."""
    found = {revision: Holding(revision, sizes.get(revision) or 0) for revision in held.dead}
    for revision, size in held.loading.items():
        found[revision] = Holding(revision, size, is_loading=True)
    for card in held.cards:
        found[card.revision] = Holding(card.revision, card.memory_bytes)
    for revision, size in held.leaving.items():
        found[revision] = Holding(revision, size, is_leaving=True)
    return list(found.values())
