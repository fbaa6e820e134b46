"""Live engine: what runs and waits now, the KV pool, and a way to cancel."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST

from console.audit.actor import actor_of
from console.dashboard.engine_state import current_stats
from console.dashboard.views.home import loaded
from console.dashboard.waterfall_text import REASONS
from console.policy import Who, permits
from console.usage import actions
from monitoring.live import BOARD, sights
from monitoring.panels.recorder import RECORDER

MAX_SHOWN = 100


@require_GET
def page(request: HttpRequest) -> HttpResponse:
    return render(request, "dashboard/live.html", figures(request))


@require_GET
def now(request: HttpRequest) -> HttpResponse:
    """The page's moving part, refreshed every second while it is looked at."""
    return render(request, "dashboard/partials/live_now.html", figures(request))


@require_POST
def cancel(request: HttpRequest, request_id: str) -> HttpResponse:
    try:
        actions.cancel_request(actor=actor_of(request), request_id=request_id)
    except actions.NotInFlight:
        messages.warning(request, _("This request has ended already."))
    else:
        messages.success(request, _("Cancelled: the client gets error 403 request_cancelled."))
    return redirect("dashboard:live")


def figures(request: HttpRequest) -> dict[str, Any]:
    stats = current_stats()
    revisions = stats.revisions if stats else ()
    reasons = [REASONS[one.waits_for] for one in revisions if one.waits_for and one.num_waiting]
    return {
        "rate_now": RECORDER.rate_now(),
        "num_running": sum(one.num_running for one in revisions) if stats else None,
        "num_waiting": sum(one.num_waiting for one in revisions) if stats else None,
        "waits_for": reasons[0] if reasons else "",
        "revisions": loaded(stats),
        "num_in_flight": len(BOARD),
        "sights": list(sights(BOARD.oldest(MAX_SHOWN), stats)),
        "max_shown": MAX_SHOWN,
        "may_cancel": permits(Who.OPERATOR, request.user),
    }
