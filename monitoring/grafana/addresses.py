"""Where a panel of the list lies in Grafana: its dashboard's uid, its number there, and the address."""

from __future__ import annotations

from urllib.parse import urlencode, urlsplit

from monitoring.panels.listing import GROUPS
from monitoring.panels.panel import Group

PLACES = {panel.id: (group, number) for group in GROUPS for number, panel in enumerate(group.panels, start=1)}


def uid(group: Group) -> str:
    return f"pilothouse-{group.id}"


def origin(url: str) -> str:
    """Scheme, host and port: what a frame may come from."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc}"


def solo_path(panel_id: str) -> str:
    group, _ = PLACES[panel_id]
    return f"/d-solo/{uid(group)}/{uid(group)}"


def solo_url(grafana: str, *, panel_id: str, token: str, is_dark: bool, range_name: str, model: str) -> str:
    """The address of one panel alone, for an iframe."""
    query = {
        "orgId": 1,
        "panelId": PLACES[panel_id][1],
        "theme": "dark" if is_dark else "light",
        "from": f"now-{range_name}",
        "to": "now",
        "refresh": "10s",
        "var-model": model or "$__all",
        "auth_token": token,
    }
    return f"{grafana.rstrip('/')}{solo_path(panel_id)}?{urlencode(query)}"
