"""Reads of the refused requests for pages: a list like the request log's, and how many there were."""

from __future__ import annotations

from datetime import datetime

from django.db.models import QuerySet, Sum

from console.accounts.models import User
from console.keys.models import ApiKey
from console.usage.log import MAX_OWNERS, LogFilter, owners_called
from console.usage.models import RefusedRequest


def refused(log_filter: LogFilter) -> QuerySet[RefusedRequest]:
    """Newest first. What a refusal does not have (a model, an outcome, a duration) narrows nothing."""
    rows = RefusedRequest.objects.order_by("-at", "-pk")
    exact = {
        "code": log_filter.error_code,
        "endpoint": log_filter.endpoint,
        "transport": log_filter.transport,
    }
    rows = rows.filter(**{name: value for name, value in exact.items() if value})
    if log_filter.owner:
        rows = rows.filter(owner__in=owners_called(log_filter.owner)[:MAX_OWNERS])
    if log_filter.request_id:
        rows = rows.filter(request_id__startswith=log_filter.request_id)
    if log_filter.arrived_from is not None:
        rows = rows.filter(at__gte=log_filter.arrived_from)
    if log_filter.arrived_until is not None:
        rows = rows.filter(at__lt=log_filter.arrived_until)
    return rows


def refused_of(owner: str, *, limit: int) -> list[RefusedRequest]:
    return list(RefusedRequest.objects.filter(owner=owner).order_by("-at", "-pk")[:limit])


def num_refused(*, since: datetime, owner: str | None = None) -> int:
    rows = RefusedRequest.objects.filter(at__gte=since)
    if owner is not None:
        rows = rows.filter(owner=owner)
    return int(rows.aggregate(all=Sum("count", default=0))["all"])


def name_callers(rows: list[RefusedRequest]) -> list[RefusedRequest]:
    """The same rows; they know the names of their keys and people."""
    ids = {row.owner for row in rows}
    people = [int(one.removeprefix("user:")) for one in ids if one.startswith("user:")]
    names = dict(ApiKey.objects.filter(public_id__in=ids).values_list("public_id", "name"))
    found = User.objects.filter(pk__in=people).values_list("pk", "username")
    names |= {f"user:{pk}": name for pk, name in found}
    for row in rows:
        row.caller_name = names.get(row.owner, row.owner)
    return rows
