"""The endpoints of /v1, as the layers below the gateway know them: key scopes, the policy, bounds of bodies
and the filter of the request log read them here. The gateway's app registers them when Django starts, as
`console/gateway/endpoints/registry.py` lists them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from django.utils.functional import Promise

KB, MB = 1024, 1024 * 1024


@dataclass(frozen=True, slots=True)
class KeyScope:
    """What a key must be issued for; endpoints may share one."""

    name: str
    label: str | Promise


@dataclass(frozen=True, slots=True)
class Route:
    """A URL of an endpoint. `pattern` is Django's, below /v1/; `view` takes the request and the endpoint."""

    pattern: str
    name: str
    method: Literal["GET", "POST"]
    view: Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointInfo:
    name: str  # in the ledger and in the list of refused requests
    scope: KeyScope
    routes: tuple[Route, ...]  # the first is the endpoint's path
    id_prefix: str = ""  # of its requests' ids
    operation: str = ""  # OpenTelemetry's gen_ai.operation.name
    max_body_bytes: int = 64 * KB
    is_settled: bool = True  # its requests have rows in the ledger
    socket_path: str = ""  # of its WebSocket, where it has one
    example: Callable[[str], dict[str, Any]] | None = None  # model -> a small request's body; none: without

    @property
    def path(self) -> str:
        return f"/v1/{self.routes[0].pattern}"


_endpoints: dict[str, EndpointInfo] = {}  # by name


def register(endpoint: EndpointInfo) -> None:
    """Raises `ValueError` where its name, or the name of a route, is taken."""
    if endpoint.name in _endpoints or any(at_route(f"gateway:{one.name}") for one in endpoint.routes):
        raise ValueError(f"the endpoint {endpoint.name!r}, or a route of it, is registered already")
    _endpoints[endpoint.name] = endpoint


def endpoints() -> tuple[EndpointInfo, ...]:
    """In the order in which they are listed."""
    if not _endpoints:
        raise LookupError("no endpoint is registered yet: Django's apps are not ready")
    return tuple(_endpoints.values())


def at_route(view_name: str) -> EndpointInfo | None:
    """The endpoint of a resolved route, `gateway:...`."""
    app, _, name = view_name.partition(":")
    if app != "gateway":
        return None
    return next((one for one in _endpoints.values() if name in [route.name for route in one.routes]), None)
