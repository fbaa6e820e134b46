"""/v1/chat/completions, and its WebSocket at /v1/responses."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_lazy as _

from console.endpoint_registry import MB, KeyScope, Route
from console.gateway.endpoints.base import GenerationEndpoint, SocketDialect
from console.gateway.endpoints.chat.response import ChatResponse
from console.gateway.endpoints.chat.schema import ChatRequest
from console.gateway.errors import ApiError
from console.gateway.http.views import generate


def example(model: str) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "Hello!"}]}


def socket_body(body: dict[str, Any]) -> dict[str, Any]:
    """The chat request in a `response.create`. Every answer streams here, with usage in its last frame."""
    if "input" in body and "messages" not in body:
        raise ApiError(
            400,
            "unsupported_parameter",
            "'input' is not supported: send a chat request with 'messages'.",
            "input",
        )
    for name in ("stream", "stream_options"):
        if body.get(name) is not None:
            raise ApiError(
                400,
                "unsupported_parameter",
                f"'{name}' is not sent here: every answer streams, with usage.",
                name,
            )
    return {**body, "stream": True}


CHAT = GenerationEndpoint(
    name="chat.completions",
    scope=KeyScope("chat", _("Chat completions, over HTTP and WebSocket")),
    routes=(Route("chat/completions", "chat_completions", "POST", generate),),
    id_prefix="chatcmpl",
    operation="chat",
    max_body_bytes=2 * MB,
    schema=ChatRequest,
    response=ChatResponse,
    socket_path="/v1/responses",
    socket=SocketDialect(event="chat.completion", request_body=socket_body),
    example=example,
)
