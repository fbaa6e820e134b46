"""Reads of the audit log for pages."""

from __future__ import annotations

from django.db.models import QuerySet

from console.audit.models import Entry


def recent_entries(*, limit: int) -> QuerySet[Entry]:
    """The newest entries, newest first."""
    return Entry.objects.order_by("-seq")[:limit]
