"""The table of wire fields: what works, what is refused and why. Derived from the schemas; docs/api.md is
checked by it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from console.gateway.endpoints.chat.schema import ChatRequest
from console.gateway.endpoints.completions.schema import CompletionRequest
from console.gateway.endpoints.wire import Wire

ENDPOINTS: dict[str, type[Wire]] = {
    "/v1/chat/completions": ChatRequest,
    "/v1/completions": CompletionRequest,
}


@dataclass(frozen=True, slots=True)
class WireField:
    """One top-level field. `harmless`: JSON values of a refused field that ask for nothing and pass."""

    name: str
    works: bool
    why: str = ""
    harmless: tuple[str, ...] = ()


def wire_fields(path: str) -> tuple[WireField, ...]:
    """All fields of an endpoint, by name."""
    schema = ENDPOINTS[path]
    works = [WireField(name, works=True) for name in schema.model_fields]
    refused = [
        WireField(name, works=False, why=one.why, harmless=tuple(json.dumps(v) for v in one.harmless))
        for name, one in schema.REFUSED.items()
    ]
    return tuple(sorted([*works, *refused], key=lambda one: one.name))
