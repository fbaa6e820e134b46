"""Bounds that hold under every ASGI server, once it is known whom a request comes from: its head, the size
of its body, and how many of one address are being answered.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, MutableMapping
from contextlib import contextmanager
from typing import Any

from django.conf import settings
from django.http.request import split_domain_port, validate_host

from console.addresses import client_of
from console.channel.head import TOO_MANY, Refused, body_bound, too_large, why_refused
from monitoring.metrics import observe_refusal, observe_response

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]

MAX_PAGES = 64  # requests of the console that are answered at once, each in a thread; others wait


class ApplicationBounds:
    """An ASGI application around another: it refuses, or passes the request on with its whole body."""

    def __init__(self, app: Application, *, most_per_address: int) -> None:
        self._app = app
        self._most_per_address = most_per_address
        self._counts: Counter[str] = Counter()  # address -> requests and sockets under way
        self._pages = asyncio.Semaphore(MAX_PAGES)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        # Nothing is served under a prefix, and some servers take one from a header that anybody may send.
        scope = {**scope, "root_path": ""}
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "websocket":
                await self._websocket(scope, receive, send)
            case _:
                await self._app(scope, receive, send)

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        bound = body_bound(scope["path"])
        with self._counted(scope) as is_in:
            refused = why_refused_by_scope(scope, bound=bound) if is_in else TOO_MANY
            body = b"" if refused else await read_body(receive, bound=bound)
            if body is None:  # its client has left
                return
            if refused is None and len(body) > bound:
                refused = too_large(bound)
            if refused is not None:
                await refuse(refused, scope["path"], send)
            elif f"{scope['path']}/".startswith("/v1/"):
                await self._app(scope, replayed(body, receive), send)
            else:
                async with self._pages:
                    await self._app(scope, replayed(body, receive), send)

    async def _websocket(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._counted(scope) as is_in:
            if is_in and has_own_host(scope):
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close"})  # before it is accepted: 403

    @contextmanager
    def _counted(self, scope: Scope) -> Iterator[bool]:
        """Yields False where no room is left for its address."""
        address = client_of((scope.get("client") or ("",))[0])
        if self._counts[address] >= self._most_per_address and address:
            yield False
            return
        self._counts[address] += 1
        try:
            yield True
        finally:
            self._counts[address] -= 1
            if not self._counts[address]:
                del self._counts[address]


def why_refused_by_scope(scope: Scope, *, bound: int) -> Refused | None:
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    given = headers.get("content-length", "0")
    length = int(given) if given.isascii() and given.isdigit() else None
    if "transfer-encoding" in headers:
        length = None
    return why_refused(headers, version=scope.get("http_version", ""), bound=bound, length=length)


def has_own_host(scope: Scope) -> bool:
    """True where a socket is asked for under one of ALLOWED_HOSTS; pages are checked by Django."""
    host = next((value.decode("latin-1") for name, value in scope["headers"] if name == b"host"), "")
    return validate_host(split_domain_port(host)[0], settings.ALLOWED_HOSTS)


async def read_body(receive: Receive, *, bound: int) -> bytes | None:
    """The whole body, or just more than `bound` of it; None: the client has left."""
    pieces, num_bytes = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        piece = message.get("body", b"")
        num_bytes += len(piece)
        pieces.append(piece)
        if num_bytes > bound or not message.get("more_body", False):
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def replayed(body: bytes, receive: Receive) -> Receive:
    """`receive` for a request whose body was read already."""
    has_body = True

    async def again() -> Any:
        nonlocal has_body
        if not has_body:
            return await receive()
        has_body = False
        return {"type": "http.request", "body": body, "more_body": False}

    return again


async def refuse(refused: Refused, path: str, send: Send) -> None:
    headers = [(name.encode(), value.encode()) for name, value in refused.headers(path).items()]
    await send({"type": "http.response.start", "status": refused.status, "headers": headers})
    await send({"type": "http.response.body", "body": refused.body(path)[1]})
    observe_refusal(endpoint="none", error_code=refused.code)
    observe_response(route="none", method="", status=refused.status)
