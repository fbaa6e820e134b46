"""Short news for the page that asked: shown beside the fragment that an htmx request gets back."""

from __future__ import annotations

from typing import Literal, TypeVar

from django.http import HttpResponseBase
from django_htmx.http import trigger_client_event

Response = TypeVar("Response", bound=HttpResponseBase)


def toast(response: Response, *, text: str, kind: Literal["ok", "warn", "bad"] = "ok") -> Response:
    """Let the page show `text` when it receives the response."""
    trigger_client_event(response, "toast", {"text": text, "kind": kind})
    return response
