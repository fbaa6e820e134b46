"""Panels: Grafana's own where it lets itself be embedded, else drawn here; the page is never empty."""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from urllib.parse import urlencode

from asgiref.sync import sync_to_async
from django.conf import settings
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET

from console.dashboard.forms.panel_filter import PanelFilterForm, panels_named
from monitoring.grafana.addresses import origin, solo_path, solo_url
from monitoring.grafana.reach import Prober, Reach, State
from monitoring.grafana.tokens import LIFE_SECONDS, token
from monitoring.panels.drawing import Drawn
from monitoring.panels.listing import GROUPS, PANELS
from monitoring.panels.range_query import shown_url
from monitoring.panels.source import source

SPARE_SECONDS = 60  # a frame gets its next token this long before the last one ends


@require_GET
async def page(request: HttpRequest) -> HttpResponse:
    form = await sync_to_async(PanelFilterForm)(request.GET)
    is_own_wanted = request.GET.get("draw") == "own"
    reach = None if is_own_wanted else await grafana_reach(request)
    chosen = {name: value for name in ("range", "model", "split") if (value := request.GET.get(name))}
    context: dict[str, Any] = {
        "form": form,
        "groups": GROUPS,
        "query": urlencode(chosen),
        "is_framed": reach is not None and reach.state is State.OK,
        "grafana_url": settings.GRAFANA_URL,
        "grafana_fault": grafana_fault(reach),
        "draws_itself": is_own_wanted and bool(settings.GRAFANA_URL),
        "prometheus_url": shown_url(settings.PROMETHEUS_URL),
    }
    return await sync_to_async(render)(request, "panels/page.html", context)


@require_GET
async def series(request: HttpRequest) -> JsonResponse:
    """Lines of the panels that are named: `?panel=requests&panel=kv&range=1h`."""
    form = await sync_to_async(PanelFilterForm)(request.GET)
    panels = panels_named(request.GET.getlist("panel"))
    answer = await source(settings.PROMETHEUS_URL).answer(panels, form.wanted())
    return JsonResponse(
        {
            "source": "own" if answer.is_own else "prometheus",
            "notice": prometheus_fault(answer.fault),
            "panels": [shown(drawn) for drawn in answer.drawn],
        }
    )


@require_GET
async def frames(request: HttpRequest) -> JsonResponse:
    """Addresses of Grafana's panels with a fresh token for this person; empty where it is not configured."""
    if not settings.GRAFANA_URL:
        return JsonResponse({"frames": {}, "seconds": 0})
    form = await sync_to_async(PanelFilterForm)(request.GET)
    wanted = form.wanted()
    pass_ = token(settings.DATA_DIR, username=request.user.get_username())
    is_dark = request.GET.get("theme") == "dark"
    found = {
        panel_id: solo_url(
            settings.GRAFANA_URL,
            panel_id=panel_id,
            token=pass_,
            is_dark=is_dark,
            range_name=wanted.range,
            model=wanted.model,
        )
        for panel_id in PANELS
    }
    response = JsonResponse({"frames": found, "seconds": LIFE_SECONDS - SPARE_SECONDS})
    response["Cache-Control"] = "no-store"
    return response


async def grafana_reach(request: HttpRequest) -> Reach | None:
    """How Grafana is; None where none is configured."""
    if not settings.GRAFANA_URL:
        return None
    console_origin = f"{request.scheme}://{request.get_host()}"
    if origin(settings.GRAFANA_URL) == console_origin:  # a frame of our own origin could reach into the page
        return Reach(State.REFUSES_FRAME, console_origin)
    first = next(iter(PANELS))
    pass_ = token(settings.DATA_DIR, username=request.user.get_username())
    prober = probers(settings.GRAFANA_INTERNAL_URL)
    return await prober.reach(path=solo_path(first), token=pass_, console_origin=console_origin)


def grafana_fault(reach: Reach | None) -> str:
    """What was tried, and what to change; empty where there is nothing to say."""
    words = {
        State.UNREACHABLE: _("Grafana cannot be reached."),
        State.NOT_GRAFANA: _("What answers there is not Grafana."),
        State.REFUSES_TOKEN: _("Grafana does not accept the console's token: set up auth.jwt."),
        State.REFUSES_FRAME: _("Grafana must allow embedding, on an origin of its own: set allow_embedding."),
        State.NO_DASHBOARD: _("Grafana has no such dashboard: provision those of docker/grafana."),
    }
    if reach is None or reach.state is State.OK:
        return ""
    tried = _("Tried %(url)s: %(fault)s.") % {"url": settings.GRAFANA_INTERNAL_URL, "fault": reach.fault}
    return f"{words[reach.state]} {tried}"


def prometheus_fault(fault: str) -> str:
    if not fault:
        return ""
    told = _("Prometheus at %(url)s cannot be asked: %(fault)s. Below is what this server recorded itself.")
    return told % {"url": shown_url(settings.PROMETHEUS_URL), "fault": fault}


def shown(drawn: Drawn) -> dict[str, Any]:
    return {
        "id": drawn.panel.id,
        "times": drawn.times,
        "series": [{"name": line.name, "values": line.values} for line in drawn.lines],
        "left_out": drawn.num_left_out,
        "begins": drawn.begins,
    }


@lru_cache(maxsize=4)
def probers(url: str) -> Prober:
    return Prober(url)
