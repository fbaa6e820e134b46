"""/v1/models: the models that the caller's key may ask for."""

from __future__ import annotations

from typing import Any

from django.http import HttpResponseBase, JsonResponse
from django.utils.translation import gettext_lazy as _

from console.accounts.caller import Caller
from console.catalog.queries import Served, served_models
from console.endpoint_registry import KeyScope, Route
from console.gateway.endpoints.base import Endpoint
from console.gateway.errors import ApiError
from console.gateway.http.request import GatewayRequest
from console.keys.scopes import require
from inference import client
from inference.protocol.stats import ModelCard


async def list_models(request: GatewayRequest, endpoint: Endpoint) -> HttpResponseBase:
    cards = {card.revision: card for card in client.current().models()}
    served = await _models_for(request.caller, endpoint)
    return JsonResponse({"object": "list", "data": [_model(one, cards.get(one.revision)) for one in served]})


async def get_model(request: GatewayRequest, endpoint: Endpoint, name: str) -> HttpResponseBase:
    cards = {card.revision: card for card in client.current().models()}
    for one in await _models_for(request.caller, endpoint):
        if one.name == name:
            return JsonResponse(_model(one, cards.get(one.revision)))
    raise ApiError(404, "model_not_found", f"The model '{name[:256]}' does not exist.", "model")


async def _models_for(caller: Caller, endpoint: Endpoint) -> list[Served]:
    require(endpoint.scope, caller=caller)
    return [one for one in await served_models() if caller.may_ask_for(one.name)]


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


MODELS = Endpoint(
    name="models",
    scope=KeyScope("models", _("The list of models")),
    routes=(
        Route("models", "models", "GET", list_models),
        Route("models/<path:name>", "model", "GET", get_model),
    ),
    is_settled=False,
)
