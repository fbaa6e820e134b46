"""Reads of the ledger for pages: the newest requests, and what a time range used."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from django.db.models import Count, Q, QuerySet, Sum

from console.usage.models import Outcome, UsageRecord


@dataclass(frozen=True, slots=True)
class Totals:
    """Usage of the requests that arrived in a time range, and how many of them failed."""

    num_requests: int
    num_failed: int
    num_cancelled: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int

    @property
    def failed_percent(self) -> float | None:
        return 100 * self.num_failed / self.num_requests if self.num_requests else None


def recent_requests(*, limit: int) -> QuerySet[UsageRecord]:
    """The newest requests, newest first."""
    return UsageRecord.objects.select_related("key", "team").order_by("-created_at", "-pk")[:limit]


def totals_since(*, moment: datetime) -> Totals:
    """Sums over the requests that arrived at or after a moment."""
    sums = UsageRecord.objects.filter(created_at__gte=moment).aggregate(
        num_requests=Count("pk"),
        num_failed=Count("pk", filter=Q(outcome=Outcome.FAILED)),
        num_cancelled=Count("pk", filter=Q(outcome=Outcome.CANCELLED)),
        prompt_tokens=Sum("prompt_tokens", default=0),
        cached_tokens=Sum("cached_tokens", default=0),
        completion_tokens=Sum("completion_tokens", default=0),
    )
    return Totals(**sums)
