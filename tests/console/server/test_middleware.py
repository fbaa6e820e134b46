"""Who a request comes from, as proxies and strangers tell it."""

from __future__ import annotations

from typing import Any

import pytest

from console.server.middleware import TrustedProxies


async def seen(client: str, headers: dict[str, str], **scope: Any) -> dict[str, Any]:
    """The scope that the application gets."""
    found: dict[str, Any] = {}

    async def application(scope: Any, receive: Any, send: Any) -> None:
        found.update(scope)

    given = [(name.encode(), value.encode()) for name, value in {"host": "inside", **headers}.items()]
    raw = {"type": "http", "scheme": "http", "client": [client, 1], "headers": given, **scope}
    await TrustedProxies(application, proxies=["10.0.0.0/8", "::1"])(raw, None, None)  # type: ignore[arg-type]
    return found


FORWARDED = {"x-forwarded-for": "1.2.3.4", "x-forwarded-proto": "https", "x-forwarded-host": "outside"}


async def test_a_trusted_proxy_is_believed() -> None:
    scope = await seen("10.1.1.1", FORWARDED)
    assert (scope["client"][0], scope["scheme"]) == ("1.2.3.4", "https")
    assert scope["headers"] == [(b"host", b"outside")]


async def test_a_stranger_is_not_and_the_headers_are_gone() -> None:
    scope = await seen("8.8.8.8", FORWARDED)
    assert (scope["client"][0], scope["scheme"]) == ("8.8.8.8", "http")
    assert scope["headers"] == [(b"host", b"inside")]
    assert scope["is_proxied"]


@pytest.mark.parametrize("hops", ["6.6.6.6, 1.2.3.4", "6.6.6.6, 1.2.3.4, 10.9.9.9"])
async def test_what_a_client_invents_left_of_its_own_address_counts_for_nothing(hops: str) -> None:
    scope = await seen("::1", {"x-forwarded-for": hops})
    assert scope["client"][0] == "1.2.3.4"


async def test_a_socket_behind_tls_is_a_secure_socket() -> None:
    assert (await seen("10.1.1.1", FORWARDED, type="websocket", scheme="ws"))["scheme"] == "wss"
    assert not (await seen("10.1.1.1", {}))["is_proxied"]
