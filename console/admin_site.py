"""What Django admin shows beside its pages: pages in the console's order."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.urls import reverse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

SECTIONS: tuple[tuple[str | Promise, tuple[tuple[str | Promise, str, str], ...]], ...] = (
    (
        _("Observe"),
        (
            (_("Audit log"), "receipt_long", "admin:audit_entry_changelist"),
            (_("Usage"), "data_usage", "admin:usage_usagerecord_changelist"),
        ),
    ),
    (
        _("Access"),
        (
            (_("API keys"), "key", "admin:keys_apikey_changelist"),
            (_("Budgets"), "speed", "admin:limits_limit_changelist"),
            (_("Reservations"), "hourglass_top", "admin:limits_ticket_changelist"),
            (_("People"), "person", "admin:accounts_user_changelist"),
            (_("Teams"), "groups", "admin:accounts_team_changelist"),
        ),
    ),
    (
        _("Serve"),
        (
            (_("Models"), "deployed_code", "admin:catalog_servedmodel_changelist"),
            (_("Revisions"), "history", "admin:catalog_revision_changelist"),
        ),
    ),
    (
        _("Console"),
        (
            (_("Management API"), "api", "api:docs"),
            (_("Back to the console"), "arrow_back", "dashboard:home"),
        ),
    ),
)


def navigation(request: HttpRequest) -> list[dict[str, Any]]:
    """Admin's sidebar; every role may look into every page, and what it may do there is decided there."""
    return [
        {
            "title": title,
            "items": [
                {
                    "title": label,
                    "icon": icon,
                    "link": reverse(route),
                    "active": request.path.startswith(reverse(route)) and route != "dashboard:home",
                }
                for label, icon, route in pages
            ],
        }
        for title, pages in SECTIONS
    ]
