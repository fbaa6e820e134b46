"""Home: how the engine is, what it did in the last hour, and what changed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_GET

import inference.client
from console.audit.actor import Actor, actor_of
from console.catalog.models import Arm
from console.dashboard.engine_state import current_stats
from console.dashboard.events import events
from console.dashboard.problems import problems
from console.usage.log import name_people
from console.usage.models import UsageRecord
from console.usage.queries import recent_requests, totals_since
from console.usage.refused_queries import num_refused
from inference.protocol.stats import ModelCard, RevisionStats, Stats
from monitoring.panels.recorder import RECORDER

NUM_REQUESTS = 8
NUM_ENTRIES = 7


@dataclass(frozen=True, slots=True)
class Loaded:
    """A revision in the engine: what it is, what it does now, and the public names that lead to it."""

    card: ModelCard | None
    stats: RevisionStats
    names: tuple[str, ...]

    @property
    def used_percent(self) -> float:
        return percent(self.stats.num_blocks_used, self.stats.num_blocks) or 0.0

    @property
    def cached_percent(self) -> float:
        return percent(self.stats.num_blocks_cached, self.stats.num_blocks) or 0.0

    @property
    def hit_percent(self) -> float | None:
        return percent(self.stats.num_prefix_hits, self.stats.num_prefix_queries)


def percent(part: int, whole: int) -> float | None:
    return round(100 * part / whole, 1) if whole else None


@require_GET
def home(request: HttpRequest) -> HttpResponse:
    context = {
        **engine_figures(actor_of(request)),
        "requests": newest_requests(actor_of(request)),
        "events": events(actor_of(request), NUM_ENTRIES),
    }
    return render(request, "dashboard/home.html", context)


@require_GET
def figures(request: HttpRequest) -> HttpResponse:
    """The engine's part of the page, refreshed while it is looked at."""
    return render(request, "dashboard/partials/home_figures.html", engine_figures(actor_of(request)))


@require_GET
def requests(request: HttpRequest) -> HttpResponse:
    """The newest requests, refreshed while they are looked at."""
    context = {"requests": newest_requests(actor_of(request))}
    return render(request, "dashboard/partials/home_requests.html", context)


@require_GET
def feed(request: HttpRequest) -> HttpResponse:
    """What happened last, refreshed while it is looked at."""
    return render(
        request, "dashboard/partials/home_feed.html", {"events": events(actor_of(request), NUM_ENTRIES)}
    )


def newest_requests(actor: Actor) -> list[UsageRecord]:
    return name_people(list(recent_requests(actor, limit=NUM_REQUESTS)))


def engine_figures(actor: Actor) -> dict[str, Any]:
    stats, hour_ago = current_stats(), timezone.now() - timedelta(hours=1)
    return {
        "problems": problems(),
        "rate_now": RECORDER.rate_now(),
        "revisions": loaded(stats),
        "num_running": sum(one.num_running for one in stats.revisions) if stats else None,
        "num_waiting": sum(one.num_waiting for one in stats.revisions) if stats else None,
        "hour": totals_since(actor, moment=hour_ago),
        "num_refused": num_refused(actor, since=hour_ago),
    }


def loaded(stats: Stats | None) -> list[Loaded]:
    """What the engine has loaded, with the catalog's names for it."""
    if stats is None:
        return []
    cards = {card.revision: card for card in inference.client.current().models()}
    names: dict[str, list[str]] = {}
    for name, revision in Arm.objects.filter(weight__gt=0).values_list("route__name", "revision_id"):
        names.setdefault(str(revision), []).append(name)
    return [
        Loaded(cards.get(one.revision), one, tuple(sorted(names.get(one.revision, ()))))
        for one in stats.revisions
    ]
