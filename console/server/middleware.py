"""What every request passes before Django: who it really comes from and its id; and the console's default-
deny policy.
"""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseNotAllowed
from django.utils.deprecation import MiddlewareMixin

from console.addresses import Networks
from console.audit.actor import actor_of, address
from console.audit.refusals import REFUSALS
from console.audit.server_runs import stamp
from console.audit.write import write
from console.dashboard.wrong_method import instead
from console.policy import Who, is_near, permits, who_may
from monitoring.metrics import observe_response

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Any, Any, Any], Awaitable[None]]
Header = tuple[bytes, bytes]

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,128}")
METHODS = ("GET", "HEAD", "POST")  # of the console; the management API names its own
PAGES = (Who.STAFF, Who.OPERATOR, Who.ADMIN, Who.ADMIN_SITE)
FORWARDED = (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-forwarded-port", b"forwarded")


class TrustedProxies:
    """Believes X-Forwarded-* from the listed proxies and takes them off everybody else's requests."""

    def __init__(self, app: Application, *, proxies: Iterable[str]) -> None:
        self._app = app
        self._proxies = Networks(proxies)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        forwarded = {name: value.decode("latin-1") for name, value in scope["headers"] if name in FORWARDED}
        scope = {**scope, "headers": [one for one in scope["headers"] if one[0] not in FORWARDED]}
        scope["is_proxied"] = bool(forwarded)
        client = scope.get("client") or ("", 0)
        if forwarded and client[0] in self._proxies:
            self._believe(scope, forwarded)
        await self._app(scope, receive, send)

    def _believe(self, scope: Scope, forwarded: dict[bytes, str]) -> None:
        """The client is the last address that no trusted proxy has: what stands left may be invented."""
        hops = [hop.strip() for hop in forwarded.get(b"x-forwarded-for", "").split(",") if hop.strip()]
        strangers = [hop for hop in hops if hop not in self._proxies]
        if strangers:
            scope["client"] = [strangers[-1], 0]
        secure = forwarded.get(b"x-forwarded-proto", "").split(",")[-1].strip() == "https"
        is_socket = scope["type"] == "websocket"
        scope["scheme"] = ("wss" if secure else "ws") if is_socket else ("https" if secure else "http")
        if host := forwarded.get(b"x-forwarded-host", "").split(",")[-1].strip():
            others = [one for one in scope["headers"] if one[0] != b"host"]
            scope["headers"] = [*others, (b"host", host.encode("latin-1"))]


class RequestId:
    """Every response carries `x-request-id`: the client's own where it is well-formed, else a new one."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        started = time.monotonic()
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), b"")
        request_id = given if REQUEST_ID.fullmatch(given) else f"req_{uuid.uuid4().hex}".encode()

        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                milliseconds = str(int((time.monotonic() - started) * 1000)).encode()
                stamps: list[Header] = [
                    (b"x-request-id", request_id),
                    (b"openai-processing-ms", milliseconds),
                    (b"x-content-type-options", b"nosniff"),
                ]
                kept = [one for one in message.get("headers", []) if one[0].lower() != stamps[2][0]]
                message = {**message, "headers": [*kept, *stamps]}
            await send(message)

        scope = {**scope, "request_id": request_id.decode(), "arrived": started}
        await self._app(scope, receive, stamped)


class PolicyMiddleware(MiddlewareMixin):
    """The console's half of `policy.py`; the gateway's handler enforces the other."""

    def process_view(
        self, request: HttpRequest, view: Any, args: Any, kwargs: Any
    ) -> HttpResponseBase | None:
        assert request.resolver_match is not None
        who = who_may(request.resolver_match.view_name)
        refused = self._refuse(request, who)
        if refused is None and who is not Who.MANAGEMENT and request.method not in METHODS:
            return HttpResponseNotAllowed(METHODS)  # or a view that asks for none would answer as to GET
        return refused

    @staticmethod
    def _refuse(request: HttpRequest, who: Who | None) -> HttpResponseBase | None:
        match who:
            case Who.ANYONE | Who.ADMIN_SITE | Who.MANAGEMENT:
                return None
            case Who.NEAR_OR_STAFF if is_near(request) or permits(Who.STAFF, request.user):
                return None
            case Who.STAFF | Who.OPERATOR | Who.ADMIN as who if permits(who, request.user):
                return None
            case Who.STAFF | Who.OPERATOR | Who.ADMIN if not request.user.is_authenticated:
                return to_sign_in(request)
            case _:
                raise PermissionDenied

    def process_response(self, request: HttpRequest, response: HttpResponseBase) -> HttpResponseBase:
        route = request.resolver_match.view_name if request.resolver_match else "none"
        if response.status_code in (401, 403):
            write_refusal(request, route, response.status_code)
        if who_may(route) in PAGES and request.user.is_authenticated:
            stamp(response, person=request.user.pk)
        observe_response(route=route, method=request.method or "", status=response.status_code)
        if who_may(route) in PAGES:
            response = instead(request, response)
        response.setdefault("Cache-Control", "no-store")  # nearly all is for the one who asked
        return response


def write_refusal(request: HttpRequest, route: str, status: int) -> None:
    """A person who tries what they may not is an audit entry, whoever refused it: the policy, a view, Django
    admin or the check of the form's token; one who goes on trying is counted, as strangers' scans are."""
    name = request.user.get_username() if request.user.is_authenticated else ""
    source = f"user:{name}" if name else "stranger"
    if name and REFUSALS.has_row(source):
        detail = {"method": request.method, "path": request.path[:300]}
        write(actor=actor_of(request), action="access.refused", target=f"route:{route}", detail=detail)
    else:
        REFUSALS.note(source=source, ip=address(request), reason=f"{status} {route}")


def to_sign_in(request: HttpRequest) -> HttpResponseBase:
    """The sign-in page, and back here afterwards; a fragment's page stays, and says what happened."""
    if request.headers.get("HX-Request") == "true":
        return HttpResponse(status=204, headers={"X-Session-Ended": "1"})
    return redirect_to_login(request.get_full_path() if request.method == "GET" else "/")
