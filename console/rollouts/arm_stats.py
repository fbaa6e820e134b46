"""How each arm of a route has done since a moment: from the ledger, never more than its newest rows."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from statistics import median

from console.usage.models import Outcome, UsageRecord

MAX_ROWS = 2000  # per arm: what a page reads every two seconds must stay cheap


@dataclass(frozen=True, slots=True)
class ArmFigures:
    """Of requests that have ended; `is_capped`: of the newest MAX_ROWS of them."""

    revision: str
    num_requests: int
    num_failed: int
    ttft_seconds: float | None  # the median

    @property
    def is_capped(self) -> bool:
        return self.num_requests == MAX_ROWS

    @property
    def failed_percent(self) -> float | None:
        return 100 * self.num_failed / self.num_requests if self.num_requests else None


def since(
    *, route: str, revisions: Iterable[str], moment: datetime, until: datetime | None = None
) -> list[ArmFigures]:
    """The arms in the order given. `until`: when a rollout ended; its figures stand still then."""
    return [_figures(route, revision, moment, until) for revision in revisions]


def _figures(route: str, revision: str, moment: datetime, until: datetime | None) -> ArmFigures:
    rows = UsageRecord.objects.filter(model=route, revision=revision, created_at__gte=moment)
    if until is not None:
        rows = rows.filter(created_at__lt=until)
    newest = rows.order_by("-created_at").values_list("outcome", "ttft_seconds")[:MAX_ROWS]
    outcomes = list(newest)
    ttfts = [ttft for _, ttft in outcomes if ttft is not None]
    return ArmFigures(
        revision=revision,
        num_requests=len(outcomes),
        num_failed=sum(outcome == Outcome.FAILED for outcome, _ in outcomes),
        ttft_seconds=median(ttfts) if ttfts else None,
    )
