"""Figures of the database that panels show: read by the recorder now and then, never by a scrape."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta

from django.db import connection
from django.db.models import Count, Q
from django.utils import timezone

from console.database.storage_probe import STORAGE
from monitoring.provided import PROVIDED, Row

ENDED_WITHIN = timedelta(days=1)


def provide_figures() -> None:
    """Name them; what they say is read from the recorder's thread."""
    PROVIDED.provide(
        name="pilothouse_route_weight",
        help="Share of a public name's requests that a revision gets, in percent.",
        labels=("model", "revision"),
        read=with_connection(weights),
    )
    PROVIDED.provide(
        name="pilothouse_jobs",
        help="Jobs that are open or ended within the last day, by state.",
        labels=("state",),
        read=with_connection(jobs),
    )
    PROVIDED.provide(
        name="pilothouse_revision_load_seconds",
        help="How long the last load of a revision took.",
        labels=("model", "revision"),
        read=with_connection(loads),
    )

    PROVIDED.provide(
        name="pilothouse_writable",
        help="1 while the database and DATA_DIR take what must be durable.",
        labels=(),
        read=lambda: [((), float(STORAGE.why_not() is None))],
    )


def with_connection(read: Callable[[], Iterable[Row]]) -> Callable[[], Iterable[Row]]:
    """The recorder's thread keeps no connection: a pooled one goes back, a broken one is forgotten."""

    def reading() -> Iterable[Row]:
        try:
            return list(read())
        finally:
            connection.close()

    return reading


def weights() -> Iterator[Row]:
    from console.catalog.models import Arm

    for name, revision, weight in Arm.objects.values_list("route__name", "revision_id", "weight"):
        yield (name, revision), weight


def jobs() -> Iterator[Row]:
    from console.jobs.models import Job

    fresh = Q(state__in=Job.OPEN) | Q(ended_at__gte=timezone.now() - ENDED_WITHIN)
    counts = dict(Job.objects.filter(fresh).order_by().values_list("state").annotate(Count("pk")))
    for state in Job.State.values:
        yield (state,), counts.get(state, 0)


def loads() -> Iterator[Row]:
    from console.catalog.models import Deployment

    rows = Deployment.objects.values_list("revision__model__name", "revision_id", "load_seconds")
    for model, revision, seconds in rows:
        if seconds is not None:
            yield (model, revision), seconds
