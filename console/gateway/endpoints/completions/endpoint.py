"""/v1/completions."""

from __future__ import annotations

from typing import Any

from django.utils.translation import gettext_lazy as _

from console.endpoint_registry import MB, KeyScope, Route
from console.gateway.endpoints.base import GenerationEndpoint
from console.gateway.endpoints.completions.response import CompletionResponse
from console.gateway.endpoints.completions.schema import CompletionRequest
from console.gateway.http.views import generate


def example(model: str) -> dict[str, Any]:
    return {"model": model, "prompt": "Hello"}


COMPLETIONS = GenerationEndpoint(
    name="completions",
    scope=KeyScope("completions", _("Text completions")),
    routes=(Route("completions", "completions", "POST", generate),),
    id_prefix="cmpl",
    operation="text_completion",
    max_body_bytes=2 * MB,
    schema=CompletionRequest,
    response=CompletionResponse,
    example=example,
)
