"""The /v1 endpoints. Each one parses, makes one call and renders; errors are rendered in `handler.py`."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from django.http import Http404, HttpRequest, HttpResponseBase, JsonResponse

from console.catalog.queries import Served, served_models
from console.gateway.endpoints.chat.response import ChatAnswer
from console.gateway.endpoints.chat.schema import ChatRequest
from console.gateway.endpoints.completions.response import CompletionAnswer
from console.gateway.endpoints.completions.schema import CompletionRequest
from console.gateway.endpoints.response import Answer
from console.gateway.errors import ApiError
from console.gateway.http.body import parse_object
from console.gateway.http.sse import event_stream
from console.gateway.pipeline import pipeline
from console.gateway.pipeline.generation import Accepted
from console.keys.caller import Caller
from console.keys.scopes import Scope, require
from console.limits.bucket import rate_headers
from inference import client
from inference.protocol.stats import ModelCard

View = Callable[..., Coroutine[Any, Any, HttpResponseBase]]


class GatewayRequest(HttpRequest):
    """A request that came through `GatewayHandler`: its caller is known where the policy asks for one."""

    caller: Caller
    scope: dict[str, Any]


def only(method: str) -> Callable[[View], View]:
    """405 with Allow for every other method. Where GET is, HEAD is: the server sends no body with it."""
    allowed = ("GET", "HEAD") if method == "GET" else (method,)

    def decorate(view: View) -> View:
        async def checked(request: GatewayRequest, **arguments: str) -> HttpResponseBase:
            if request.method not in allowed:
                message = f"{request.method} is not allowed here; use {method}."
                raise ApiError(405, "method_not_allowed", message, headers={"allow": ", ".join(allowed)})
            return await view(request, **arguments)

        return checked

    return decorate


@only("POST")
async def chat_completions(request: GatewayRequest) -> HttpResponseBase:
    wire = ChatRequest.parse(await parse_object(request.body))
    return await _generate(request, wire, lambda accepted: ChatAnswer(accepted, usage=wire.usage_in_stream))


@only("POST")
async def completions(request: GatewayRequest) -> HttpResponseBase:
    wire = CompletionRequest.parse(await parse_object(request.body))
    return await _generate(
        request,
        wire,
        lambda accepted: CompletionAnswer(accepted, usage=wire.usage_in_stream, echo=wire.echo),
    )


async def _generate(
    request: GatewayRequest, wire: ChatRequest | CompletionRequest, answer_of: Callable[[Accepted], Answer]
) -> HttpResponseBase:
    accepted = await pipeline.accept(
        caller=request.caller,
        demand=wire.demand(),
        transport="sse" if wire.stream else "rest",
        arrived=request.scope["arrived"],
    )
    request.scope["is_accepted"] = True  # it has a row in the ledger, however it ends
    answer, steps = answer_of(accepted), pipeline.run(accepted)
    response: HttpResponseBase
    if wire.stream:
        response = await event_stream(answer, steps, request_id=accepted.request_id)
    else:
        response = JsonResponse(await answer.whole(steps))
    for name, value in rate_headers(accepted.ticket.buckets).items():
        response[name] = value
    return response


@only("GET")
async def models(request: GatewayRequest) -> HttpResponseBase:
    cards = {card.revision: card for card in client.current().models()}
    data = [_model(one, cards.get(one.revision)) for one in await _models_for(request.caller)]
    return JsonResponse({"object": "list", "data": data})


@only("GET")
async def model(request: GatewayRequest, name: str) -> HttpResponseBase:
    cards = {card.revision: card for card in client.current().models()}
    for one in await _models_for(request.caller):
        if one.name == name:
            return JsonResponse(_model(one, cards.get(one.revision)))
    raise ApiError(404, "model_not_found", f"The model '{name[:256]}' does not exist.", "model")


async def _models_for(caller: Caller) -> list[Served]:
    """What the caller's key may ask for."""
    require(Scope.MODELS, caller=caller)
    return [one for one in await served_models() if caller.may_ask_for(one.name)]


async def nothing_here(request: GatewayRequest) -> HttpResponseBase:
    raise Http404


def _model(served: Served, card: ModelCard | None) -> dict[str, Any]:
    """OpenAI's four fields, and what this installation knows beside them."""
    about: dict[str, Any] = {
        "id": served.name,
        "object": "model",
        "created": int(served.created_at.timestamp()),
        "owned_by": "pilothouse",
        "revision": served.revision,
        "is_loaded": card is not None,
    }
    if card is None:
        return about
    return about | {
        "max_model_len": card.max_model_len,
        "architecture": card.architecture,
        "batching": card.batching,
        "quantization": card.quantization,
        "dtype": card.dtype,
        "chat": card.has_chat_template,
        "note": card.note,
    }
