"""The API plane's own Django handler: a few async layers instead of the console's middleware, and OpenAI's
errors throughout.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from urllib.parse import parse_qsl

from django.core.exceptions import RequestAborted
from django.core.handlers.asgi import ASGIHandler, get_script_prefix
from django.http import HttpRequest, HttpResponse, HttpResponseBase, JsonResponse
from django.urls import set_script_prefix, set_urlconf

from console.environment import environment
from console.gateway.endpoints import field_table
from console.gateway.errors import ApiError, as_api_error, invalid, unexpected
from console.gateway.http.sse import EventStream
from console.gateway.http.views import GatewayRequest
from console.gateway.refusal_audit import claimed_owner, list_refused, source_of, write_down
from console.keys.authenticate import authenticate
from console.policy import Who, who_may
from monitoring import semconv, tracing
from monitoring.metrics import begin_refusals, observe_refusal, observe_response

logger = logging.getLogger(__name__)

ENDPOINTS = {  # as the ledger calls them
    "gateway:chat_completions": "chat.completions",
    "gateway:completions": "completions",
    "gateway:models": "models",
    "gateway:model": "models",
}
GetResponse = Callable[[Any], Awaitable[HttpResponseBase]]

KEY_PREFIX = "ph_"
KEY_PARAMETERS = {"api_key", "api-key", "apikey", "access_token", "key", "token"}
CORS_HEADERS = "authorization, content-type, x-request-id, openai-organization, openai-project"
HEADER_NAMES = re.compile(r"[A-Za-z0-9-]{1,64}(\s*,\s*[A-Za-z0-9-]{1,64}){0,63}")
RATES = [f"{what}-{unit}" for what in ("limit", "remaining", "reset") for unit in ("requests", "tokens")]
EXPOSED_HEADERS = "x-request-id, x-trace-id, openai-processing-ms, retry-after, retry-after-ms, " + ", ".join(
    f"x-ratelimit-{rate}" for rate in RATES
)


begin_refusals(("gateway:chat_completions", "gateway:completions", "websocket"))


class GatewayHandler(ASGIHandler):
    """Serves /v1. What it does to a request is the list in `load_middleware`, outermost last."""

    def load_middleware(self, is_async: bool = False) -> None:
        self._view_middleware = [enforce_policy]
        self._template_response_middleware: list[Any] = []
        self._exception_middleware: list[Any] = []
        chain: GetResponse = self._get_response_async  # type: ignore[attr-defined]  # Django's innermost layer
        for layer in (render_errors, share_with_origins, observe):
            chain = layer(chain)
        self._middleware_chain = chain

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Django's, but without a thread for each request: nothing on this path asks for one."""
        await self.handle(scope, receive, send)

    async def handle(self, scope: Any, receive: Any, send: Any) -> None:
        """Django's, but without its signals, which look after the connections of threads that are not used
        here, and without a hop into one of them to close a response.
        """
        try:
            body = await self.read_body(receive)
        except RequestAborted:
            return
        with body:
            set_script_prefix(get_script_prefix(scope))
            request, refusal = self.create_request(scope, body)
            if refusal is not None:
                await self.send_response(refusal, send)
            elif request is not None:
                await self._answer_while_connected(request, receive, send)

    async def _answer_while_connected(self, request: HttpRequest, receive: Any, send: Any) -> None:
        """After the body only a disconnect comes: it, or whoever cancels us, cancels the answer."""
        leaving = asyncio.ensure_future(receive())
        answering = asyncio.ensure_future(self._answer(request, send))
        try:
            await asyncio.wait({leaving, answering}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            answering.cancel()
            await asyncio.wait({answering})
        if not answering.cancelled():
            answering.result()

    async def _answer(self, request: HttpRequest, send: Any) -> None:
        response = await self.get_response_async(request)
        try:
            await self.send_response(response, send)
        finally:
            if isinstance(response, EventStream):
                await response.end()

    async def send_response(self, response: HttpResponseBase, send: Any) -> None:
        if not isinstance(response, EventStream):
            await super().send_response(response, send)
            return
        headers = [(name.encode("ascii"), value.encode("latin-1")) for name, value in response.items()]
        await send({"type": "http.response.start", "status": response.status_code, "headers": headers})
        await response.send_body(send)

    async def get_response_async(self, request: HttpRequest) -> HttpResponseBase:
        set_urlconf(None)
        return await self._middleware_chain(request)


async def enforce_policy(request: GatewayRequest, view: Any, args: Any, kwargs: Any) -> None:
    """Nothing is reached that the policy does not name, and no key route without a caller."""
    request.get_host()  # raises for hosts that are not ours
    refuse_key_in_url(request.META.get("QUERY_STRING", ""))
    assert request.resolver_match is not None
    match who_may(request.resolver_match.view_name):
        case Who.ANYONE:
            return
        case Who.KEY:
            request.caller = await authenticate(authorization=request.headers.get("authorization"))
        case _:
            raise ApiError(403, "no_policy", "Nobody may use this address.")


def refuse_key_in_url(query: str) -> None:
    """URLs end up in logs and histories; a key in one is burnt."""
    for name, value in parse_qsl(query):
        if name.lower() in KEY_PARAMETERS or value.startswith(KEY_PREFIX):
            message = "Never put a key into a URL: send it in the Authorization header, and revoke this one."
            raise invalid(message, code="key_in_url")


def render(error: ApiError) -> HttpResponse:
    return JsonResponse(error.body(), status=error.status, headers=error.headers)


def render_errors(get_response: GetResponse) -> GetResponse:
    """Whatever was raised, as an OpenAI error object."""

    async def layer(request: GatewayRequest) -> HttpResponseBase:
        try:
            return await get_response(request)
        except Exception as error:
            known = as_api_error(error)
            if known is None:
                logger.exception("request failed: %s", request.scope.get("request_id"))
            known = with_hint(known, path=request.path) if known else unexpected()
            observe_refusal(endpoint=route_of(request), error_code=known.code)
            tracing.failed(known.code, status=known.status)
            write_down(known, source=source_of(request.headers.get("authorization")), scope=request.scope)
            if not request.scope.get("is_accepted"):
                list_it(request, known, error)
            return render(known)

    return layer


def with_hint(error: ApiError, *, path: str) -> ApiError:
    """Name the right address where /v1 is missing or there twice, or the path ends in a slash."""
    if error.code != "not_found":
        return error
    meant = "/v1" + path.rstrip("/").replace("/v1", "")
    if meant in (*field_table.ENDPOINTS, "/v1/models"):
        message = f"There is nothing at this address; did you mean {meant}? A client's base URL ends in /v1."
        return replace(error, message=message)
    return error


def list_it(request: GatewayRequest, error: ApiError, cause: Exception) -> None:
    caller = getattr(request, "caller", None)
    list_refused(
        error,
        cause,
        owner=caller.id if caller else claimed_owner(request.headers.get("authorization")),
        scope=request.scope,
        endpoint=ENDPOINTS.get(route_of(request), ""),
        transport="rest",
    )


def share_with_origins(get_response: GetResponse) -> GetResponse:
    """CORS for the origins that are listed; none are, unless CORS_ORIGINS says so. Keys are no cookies: no
    credentials.
    """

    async def layer(request: GatewayRequest) -> HttpResponseBase:
        origin = request.headers.get("origin", "")
        is_listed = origin in environment().cors_origins
        asks_first = request.method == "OPTIONS" and "access-control-request-method" in request.headers
        if is_listed and asks_first:
            response: HttpResponseBase = HttpResponse(status=204)
            response["access-control-allow-methods"] = "GET, POST"
            asked = request.headers.get("access-control-request-headers", "")
            # Clients name headers of their own (x-stainless-*); a listed origin may send any.
            response["access-control-allow-headers"] = (
                asked if HEADER_NAMES.fullmatch(asked) else CORS_HEADERS
            )
            response["access-control-max-age"] = "600"
        else:
            response = await get_response(request)
        if is_listed:
            response["access-control-allow-origin"] = origin
            response["access-control-expose-headers"] = EXPOSED_HEADERS
        response["vary"] = "origin, access-control-request-headers" if asks_first else "origin"
        return response

    return layer


def observe(get_response: GetResponse) -> GetResponse:
    async def layer(request: GatewayRequest) -> HttpResponseBase:
        response = await get_response(request)
        response.setdefault("cache-control", "no-store")
        observe_response(route=route_of(request), method=request.method or "", status=response.status_code)
        if request.resolver_match:
            tracing.tell({semconv.HTTP_ROUTE: f"/{request.resolver_match.route}"})
        return response

    return layer


def route_of(request: HttpRequest) -> str:
    return request.resolver_match.view_name if request.resolver_match else "none"
