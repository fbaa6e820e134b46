"""A request body becomes a JSON object here, within hard bounds: size, depth, duplicate keys, valid text."""

from __future__ import annotations

import asyncio
import json
from typing import Any, NoReturn

from console.channel.head import MOST_BODY_BYTES
from console.gateway.errors import ApiError, invalid

MAX_BODY_BYTES = MOST_BODY_BYTES
MAX_DEPTH = 64
OFF_LOOP_BYTES = 32 * 1024  # above this, parsing costs more than a hop to a thread


async def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in `raw`; raises `ApiError` (413, 400)."""
    if len(raw) > MAX_BODY_BYTES:
        raise too_large()
    if len(raw) > OFF_LOOP_BYTES:
        return await asyncio.to_thread(_parse, raw)
    return _parse(raw)


def too_large() -> ApiError:
    megabytes = MAX_BODY_BYTES // (1024 * 1024)
    return ApiError(413, "request_too_large", f"The request body is larger than {megabytes} MB.")


def _parse(raw: bytes) -> dict[str, Any]:
    try:
        value = json.loads(raw, object_pairs_hook=_unique_keys, parse_constant=_no_constant)
    except RecursionError:
        raise invalid("The JSON is nested too deeply.", code="invalid_json") from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise invalid(f"The body is not valid JSON: {error}", code="invalid_json") from None
    if not isinstance(value, dict):
        raise invalid("The body must be a JSON object.", code="invalid_json")
    _check(value)
    return value


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:64]!r} is given twice")
            seen.add(key)
    return found


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _check(value: dict[str, Any]) -> None:
    """Depth and text: a lone surrogate is valid JSON, but no text that could be tokenized or stored."""
    level: list[Any] = [value]
    for _ in range(MAX_DEPTH):
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.keys())
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, str) and not item.isascii():
                _check_text(item)
        if not below:
            return
        level = below
    raise invalid(f"The JSON is nested more than {MAX_DEPTH} levels deep.", code="invalid_json")


def _check_text(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise invalid("A string holds half of a surrogate pair.", code="invalid_json") from None
