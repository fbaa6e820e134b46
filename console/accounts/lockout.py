"""The page that a person sees after too many wrong passwords. django-axes counts them."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render


def locked_out(request: HttpRequest, *answers: Any) -> HttpResponse:
    """429, with what to do. Axes also passes what it would have answered, in more than one way."""
    return render(request, "account/locked.html", {"failure_limit": settings.AXES_FAILURE_LIMIT}, status=429)
