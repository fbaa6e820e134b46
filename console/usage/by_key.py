"""Usage by key: over some days for a page of keys, or day by day for one."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from django.db.models import Count, DateField, F, Q, QuerySet, Sum
from django.db.models.functions import Cast

from console.usage.models import Outcome, UsageRecord


@dataclass(frozen=True, slots=True)
class Used:
    """Sums over requests."""

    num_requests: int = 0
    num_failed: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: Used) -> Used:
        return Used(
            self.num_requests + other.num_requests,
            self.num_failed + other.num_failed,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


SUMS = {
    "num_requests": Count("pk"),
    "num_failed": Count("pk", filter=Q(outcome=Outcome.FAILED)),
    "prompt_tokens": Sum("prompt_tokens", default=0),
    "completion_tokens": Sum("completion_tokens", default=0),
}


def used(row: Mapping[str, Any]) -> Used:
    return Used(**{name: row[name] for name in SUMS})


def used_by(owners: Collection[str], *, since: datetime) -> dict[str, Used]:
    """Owner (a key's public id) -> what it used; those that used nothing are left out."""
    rows = UsageRecord.objects.filter(owner__in=owners, created_at__gte=since)
    return {row["owner"]: used(row) for row in rows.order_by().values("owner").annotate(**SUMS)}


def used_by_day(owner: str, *, num_days: int, today: date) -> dict[date, Used]:
    """The last days until today, in order and without gaps; days are UTC."""
    days = [today - timedelta(days=age) for age in reversed(range(num_days))]
    since = datetime.fromisoformat(f"{days[0].isoformat()}T00:00:00+00:00")
    rows = UsageRecord.objects.filter(owner=owner, created_at__gte=since)
    grouped = rows.order_by().values(day=Cast(F("created_at"), DateField())).annotate(**SUMS)
    found = {row["day"]: used(row) for row in grouped}
    return {day: found.get(day, Used()) for day in days}


def requests_of(owner: str, *, limit: int) -> QuerySet[UsageRecord]:
    """The newest requests of an owner, newest first."""
    return UsageRecord.objects.filter(owner=owner).order_by("-created_at", "-pk")[:limit]
