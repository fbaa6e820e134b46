"""What every page of the console is rendered with: its pages, its theme and the engine's state."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest

from console.accounts.models import User
from console.audit.server_runs import THIS_RUN
from console.dashboard.engine_state import current_stats, engine_state
from console.dashboard.navigation import page_of, sections_for

THEMES = ("day", "night")


def console(request: HttpRequest) -> dict[str, Any]:
    """Context processor of the console's pages; a stranger gets the theme and the languages alone."""
    theme = request.COOKIES.get("theme", "")
    context: dict[str, Any] = {
        "theme": theme if theme in THEMES else "",
        "languages": settings.LANGUAGES,
    }
    user = getattr(request, "user", None)
    if isinstance(user, User) and user.is_active:
        context["sections"] = sections = sections_for(user)
        context["current_page"] = page_of(request.path, sections)
        context["engine_state"] = engine_state(current_stats())
        context["server_run"] = THIS_RUN.header(user.pk)
    return context
