"""Authentication of WebSockets: by API key, or by the session of a page of the console; before the socket is
accepted, and again for each request on it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from channels.auth import get_user
from django.conf import settings

from console.accounts.caller import Caller
from console.accounts.session import session_caller
from console.gateway.errors import ApiError
from console.keys.authenticate import authenticate

SUBPROTOCOL = "pilothouse"
KEY_SUBPROTOCOL = "pilothouse-key."
SessionStore = import_module(settings.SESSION_ENGINE).SessionStore
DEFAULT_PORTS = {"http": 80, "ws": 80, "https": 443, "wss": 443}

Authenticate = Callable[[], Awaitable[Caller]]


def authentication_of(scope: Any) -> Authenticate:
    """A function that authenticates a request of the socket; raises `ApiError` for a page of another site."""
    authorization = offered_key(scope)
    if authorization is not None:

        async def by_key() -> Caller:
            return await authenticate(authorization=authorization)

        return by_key
    if not is_own_page(scope):
        raise ApiError(403, "wrong_origin", "Sessions are only good for the console's own pages.")

    async def by_session() -> Caller:
        # Read anew: the scope's session remembers what it was when the socket opened.
        now: Any = {**scope, "session": SessionStore(scope["session"].session_key)}
        return await session_caller(await get_user(now))

    return by_session


def offered_key(scope: Any) -> str | None:
    """The key that came with the handshake, as an Authorization header: browsers send it as a subprotocol."""
    offered = [one for one in scope.get("subprotocols", []) if one.startswith(KEY_SUBPROTOCOL)]
    if (authorization := header(scope, b"authorization")) is None and offered:
        return f"Bearer {offered[0].removeprefix(KEY_SUBPROTOCOL)}"
    return authorization


def is_own_page(scope: Any) -> bool:
    """True where the page that opens the socket has our origin: scheme, host name and port."""
    origin = urlsplit(header(scope, b"origin") or "")
    host = urlsplit(f"//{header(scope, b'host') or ''}")
    is_secure = scope.get("scheme") == "wss"
    try:
        ports = (
            origin.port or DEFAULT_PORTS.get(origin.scheme),
            host.port or DEFAULT_PORTS["wss" if is_secure else "ws"],
        )
    except ValueError:
        return False
    if not origin.hostname or origin.scheme != ("https" if is_secure else "http"):
        return False
    return origin.hostname == host.hostname and ports[0] == ports[1]


def header(scope: Any, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)
