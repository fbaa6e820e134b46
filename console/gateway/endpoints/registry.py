"""The endpoints of /v1, one line each."""

from __future__ import annotations

from console.endpoint_registry import at_route, endpoints, register
from console.gateway.endpoints.base import Endpoint, GenerationEndpoint
from console.gateway.endpoints.chat.endpoint import CHAT
from console.gateway.endpoints.completions.endpoint import COMPLETIONS
from console.gateway.endpoints.models.endpoint import MODELS

ENDPOINTS: tuple[Endpoint, ...] = (
    CHAT,
    COMPLETIONS,
    MODELS,
)


def register_all() -> None:
    """Called once, when Django's apps are ready."""
    for one in ENDPOINTS:
        register(one)


def registered() -> list[Endpoint]:
    return [one for one in endpoints() if isinstance(one, Endpoint)]


def generating() -> list[GenerationEndpoint]:
    return [one for one in endpoints() if isinstance(one, GenerationEndpoint)]


def endpoint_at(view_name: str) -> Endpoint | None:
    """The endpoint of a resolved route, `gateway:...`."""
    found = at_route(view_name)
    return found if isinstance(found, Endpoint) else None
