"""Bodies within hard bounds."""

from __future__ import annotations

import pytest

from console.gateway.errors import ApiError
from console.gateway.http.body import MAX_BODY_BYTES, MAX_DEPTH, OFF_LOOP_BYTES, parse_object


async def test_an_object_is_parsed_on_the_loop_and_off_it() -> None:
    assert await parse_object(b'{"a": [1, "\xc3\xa9"]}') == {"a": [1, "é"]}
    large = b'{"a": "' + b"x" * OFF_LOOP_BYTES + b'"}'
    assert len((await parse_object(large))["a"]) == OFF_LOOP_BYTES


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b'"text"',
        b'{"a": 1, "a": 2}',
        b'{"a": {"b": 1, "b": 2}}',
        b'{"a": Infinity}',
        b'{"a": "\\udc00"}',
        b'{"\\udc00": 1}',
        b'{"a": ' + b"[" * (MAX_DEPTH + 1) + b"]" * (MAX_DEPTH + 1) + b"}",
        b'{"a": ' + b"1" * 5000 + b"}",
    ],
)
async def test_anything_else_is_invalid_json(raw: bytes) -> None:
    with pytest.raises(ApiError) as refused:
        await parse_object(raw)
    assert (refused.value.status, refused.value.code) == (400, "invalid_json")


async def test_a_body_that_is_too_large_is_not_even_parsed() -> None:
    with pytest.raises(ApiError) as refused:
        await parse_object(b"x" * (MAX_BODY_BYTES + 1))
    assert refused.value.status == 413


async def test_a_depth_that_is_allowed_passes() -> None:
    depth = MAX_DEPTH - 2
    assert await parse_object(b'{"a": ' + b"[" * depth + b"]" * depth + b"}")
