"""The wire fields of the schemas, working and refused: docs/api.md is compared with them."""

from __future__ import annotations

import json
from dataclasses import dataclass

from console.gateway.endpoints.registry import generating
from console.gateway.endpoints.wire import Wire


@dataclass(frozen=True, slots=True)
class WireField:
    """One top-level field. `harmless`: JSON values of a refused field that ask for nothing and pass."""

    name: str
    works: bool
    why: str = ""
    harmless: tuple[str, ...] = ()


def schemas() -> dict[str, type[Wire]]:
    """Of the endpoints that take a JSON object, by path."""
    return {one.path: one.schema for one in generating()}


def wire_fields(path: str) -> tuple[WireField, ...]:
    """All fields of an endpoint, by name."""
    schema = schemas()[path]
    works = [WireField(name, works=True) for name in schema.model_fields]
    refused = [
        WireField(name, works=False, why=one.why, harmless=tuple(json.dumps(v) for v in one.harmless))
        for name, one in schema.REFUSED.items()
    ]
    return tuple(sorted([*works, *refused], key=lambda one: one.name))
