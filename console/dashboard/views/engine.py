"""The engine's state as fragments: the pill of every page, and the series of its charts."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET

from monitoring.series import RECORDER


@require_GET
def pill(request: HttpRequest) -> HttpResponse:
    return render(request, "partials/engine_pill.html")


@require_GET
def series(request: HttpRequest) -> JsonResponse:
    hour = RECORDER.last_hour()
    return JsonResponse(
        {
            "times": hour.times,
            "series": [{"name": name, "values": rates} for name, rates in hour.rates.items()],
        }
    )
