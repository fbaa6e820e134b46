"""The engine's state as a fragment: the pill of every page."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_GET


@require_GET
def pill(request: HttpRequest) -> HttpResponse:
    return render(request, "partials/engine_pill.html")
