"""Every route has a policy, and no policy is without its route."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
from django.urls import URLPattern, URLResolver, get_resolver

from console import policy
from console.addresses import Networks
from console.asgi import SOCKETS, application
from console.policy import Who, who_may, who_may_connect


def view_names(resolver: URLResolver, prefix: str = "") -> Iterator[str]:
    for one in resolver.url_patterns:
        if isinstance(one, URLResolver):
            yield from view_names(one, f"{prefix}{one.namespace}:" if one.namespace else prefix)
        elif isinstance(one, URLPattern):
            yield f"{prefix}{one.name}"


def test_every_route_has_a_policy() -> None:
    assert [name for name in view_names(get_resolver()) if who_may(name) is None] == []
    assert [path for path in SOCKETS if who_may_connect(path) is None] == []
    assert who_may_connect("/v1/forgotten") is None


def test_every_policy_has_a_route() -> None:
    assert policy.HTTP.keys() <= set(view_names(get_resolver()))


def test_a_route_without_a_policy_is_nobodys() -> None:
    assert who_may("gateway:forgotten") is None
    assert who_may("forgotten") is None


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "path",
    [
        "/v1/models",
        "/v1/models/x",
        "/v1/chat/completions",
        "/v1/completions",
        "/V1/models",
        "http://localhost//v1/models",
    ],
)
async def test_no_path_of_the_api_answers_without_a_key(path: str) -> None:
    transport = httpx.ASGITransport(app=application)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        for method in ("GET", "POST", "PUT", "HEAD"):
            response = await client.request(method, path)
            assert response.status_code in (401, 403, 404), (method, path, response.text)
    assert who_may("gateway:models") is Who.KEY


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("client", "headers", "status"),
    [("127.0.0.1", {}, 200), ("8.8.8.8", {}, 403), ("127.0.0.1", {"x-forwarded-for": "127.0.0.1"}, 403)],
)
async def test_metrics_are_for_this_machine(client: str, headers: dict[str, str], status: int) -> None:
    transport = httpx.ASGITransport(app=application, client=(client, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as session:
        assert (await session.get("/metrics", headers=headers)).status_code == status


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("client", "headers", "status"),
    [
        ("172.30.77.9", {}, 200),
        ("::ffff:1.2.3.4", {}, 403),
        ("172.30.78.9", {}, 403),
        ("", {}, 403),
        ("172.30.77.9", {"x-forwarded-for": "172.30.77.9"}, 403),
    ],
)
async def test_metrics_are_for_the_networks_that_are_named(
    client: str, headers: dict[str, str], status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("console.policy.SCRAPERS", Networks(["172.30.77.0/24"]))
    transport = httpx.ASGITransport(app=application, client=(client, 1))
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as session:
        assert (await session.get("/metrics", headers=headers)).status_code == status
        assert (await session.get("/keys/")).status_code != 200  # metrics, and nothing else
