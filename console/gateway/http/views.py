"""The views of /v1. Each one parses, makes one call and renders; errors are rendered in `handler.py`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from django.http import Http404, HttpResponseBase, JsonResponse

from console.endpoint_registry import EndpointInfo, Route
from console.gateway.endpoints.base import GenerationEndpoint
from console.gateway.errors import ApiError
from console.gateway.http.request import GatewayRequest
from console.gateway.http.sse import event_stream
from console.gateway.pipeline.admission import admit
from console.gateway.pipeline.generation import generate as generate_events
from console.limits.bucket import rate_headers

View = Callable[..., Coroutine[Any, Any, HttpResponseBase]]


def view_of(endpoint: EndpointInfo, route: Route) -> View:
    """405 with Allow for every other method. Where GET is, HEAD is: the server sends no body with it."""
    allowed = ("GET", "HEAD") if route.method == "GET" else (route.method,)

    async def view(request: GatewayRequest, **arguments: str) -> HttpResponseBase:
        if request.method not in allowed:
            message = f"{request.method} is not allowed here; use {route.method}."
            raise ApiError(405, "method_not_allowed", message, headers={"allow": ", ".join(allowed)})
        response: HttpResponseBase = await route.view(request, endpoint, **arguments)
        return response

    return view


async def generate(request: GatewayRequest, endpoint: GenerationEndpoint) -> HttpResponseBase:
    wire = endpoint.schema.parse(await endpoint.parse_body(request.body, endpoint.max_body_bytes))
    accepted = await admit(
        endpoint=endpoint,
        caller=request.caller,
        request=wire.to_pipeline(),
        transport="sse" if wire.stream else "rest",
        arrived=request.scope["arrived"],
    )
    request.scope["is_accepted"] = True  # it has a row in the ledger, however it ends
    answer, events = endpoint.response.for_request(accepted, wire), generate_events(accepted)
    response: HttpResponseBase
    if wire.stream:
        response = await event_stream(answer, events, endpoint=endpoint, request_id=accepted.request_id)
    else:
        response = JsonResponse(await answer.whole(events))
    for name, value in rate_headers(accepted.ticket.buckets).items():
        response[name] = value
    return response


async def nothing_here(request: GatewayRequest) -> HttpResponseBase:
    raise Http404
