"""An endpoint is one record: what is registered is found everywhere, without a line anywhere else."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from asgiref.sync import sync_to_async
from channels.testing import WebsocketCommunicator
from django.http import HttpResponseBase, JsonResponse
from django.urls import clear_url_caches

from console import asgi, endpoint_registry
from console.accounts.actions import default_team
from console.audit.actor import Actor
from console.channel.head import body_bound, most_body_bytes
from console.dashboard.forms.keys import AccessForm
from console.dashboard.forms.request_filter import RequestFilterForm
from console.dashboard.views.keys import first_request
from console.endpoint_registry import MB, KeyScope, Route, endpoints
from console.gateway import urls
from console.gateway.endpoints.base import Endpoint, GenerationEndpoint, SocketDialect
from console.gateway.endpoints.chat.response import ChatResponse
from console.gateway.endpoints.chat.schema import ChatRequest
from console.gateway.endpoints.registry import ENDPOINTS
from console.gateway.errors import ApiError
from console.gateway.http.request import GatewayRequest
from console.gateway.websocket.consumer import consumers
from console.keys.actions import issue
from console.keys.scopes import all_scopes, endpoint_scopes, require
from console.policy import Who, who_may, who_may_connect
from tests.console.gateway.endpoints.wire_fields import schemas, wire_fields

pytestmark = pytest.mark.django_db(transaction=True)


async def echo(request: GatewayRequest, endpoint: Endpoint) -> HttpResponseBase:
    require(endpoint.scope, caller=request.caller)
    body = await endpoint.parse_body(request.body, endpoint.max_body_bytes)
    if "fault" in body:
        raise ApiError(418, "a_fault", "As asked.")
    return JsonResponse(body)


ECHO = GenerationEndpoint(
    name="echoes",
    scope=KeyScope("echo", "Echoes"),
    routes=(Route("echo/once", "echo_once", "POST", echo),),
    id_prefix="echo",
    operation="echo",
    max_body_bytes=5 * MB,
    schema=ChatRequest,
    response=ChatResponse,
    error_body=lambda error: {"type": "error", "error": {"type": error.code}},
    socket_path="/v1/echo/socket",
    socket=SocketDialect(event="echo", request_body=lambda body: body | {"stream": True}),
    example=lambda model: {"model": model, "again": 1},
)


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As if `registry.py` had a line more when Django started."""
    monkeypatch.setattr(endpoint_registry, "_endpoints", {one.name: one for one in endpoints()})
    endpoint_registry.register(ECHO)
    _read_urls_again()
    monkeypatch.setattr(asgi, "SOCKETS", consumers())
    yield
    monkeypatch.undo()
    _read_urls_again()


def _read_urls_again() -> None:
    importlib.reload(urls)
    importlib.reload(importlib.import_module("console.urls"))
    clear_url_caches()


@sync_to_async
def issued(*scopes: str) -> str:
    return issue(actor=Actor.person("test"), name="program", team=default_team(), scopes=scopes).secret


async def post(key: str, body: dict[str, Any]) -> httpx.Response:
    transport = httpx.ASGITransport(app=asgi.application)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
        return await client.post("/v1/echo/once", json=body, headers={"authorization": f"Bearer {key}"})


async def test_it_is_served_to_the_keys_of_its_scope(registered: None) -> None:
    mine, other = await issued("echo"), await issued("chat")
    answer = await post(mine, {"a": 1})
    assert (answer.status_code, answer.json()) == (200, {"a": 1})
    refused = await post(other, {"a": 1})
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "missing_scope")
    assert (await post("ph_nobody", {})).status_code == 401


async def test_its_errors_are_told_in_its_own_dialect(registered: None) -> None:
    failed = await post(await issued("echo"), {"fault": True})
    assert (failed.status_code, failed.json()) == (418, {"type": "error", "error": {"type": "a_fault"}})


async def test_its_socket_speaks_its_dialect(registered: None) -> None:
    key = await issued("echo")
    headers = [(b"authorization", f"Bearer {key}".encode()), (b"host", b"localhost")]
    socket = WebsocketCommunicator(asgi.application, ECHO.socket_path, headers=headers)
    assert (await socket.connect())[0]
    await socket.send_to(text_data=json.dumps({"type": "response.create", "stream_id": "s", "colour": "red"}))
    frame = json.loads(await socket.receive_from(timeout=30))
    assert (frame["status"], frame["stream_id"]) == (400, "s")
    assert frame["error"] == {"type": "unknown_parameter"}
    await socket.disconnect()


def test_the_policy_the_scopes_and_the_bounds_of_bodies_know_it(registered: None) -> None:
    assert who_may("gateway:echo_once") is Who.KEY
    assert who_may_connect(ECHO.socket_path) is Who.KEY_OR_SESSION
    assert body_bound(ECHO.path) == most_body_bytes() == 5 * MB
    assert endpoint_scopes()["echo"] == all_scopes()["echo"] == "Echoes"


def test_the_pages_know_it(registered: None) -> None:
    assert ("echoes", ECHO.path) in list(RequestFilterForm({}).fields["endpoint"].choices)  # type: ignore[attr-defined]
    assert ("echo", "Echoes") in list(AccessForm().fields["scopes"].choices)  # type: ignore[attr-defined]
    key = issue(
        actor=Actor.person("test"), name="program", team=default_team(), scopes=["echo"], models=["m"]
    ).key
    assert first_request(key) == ("/v1/echo/once", {"model": "m", "again": 1})


def test_the_table_of_fields_and_the_sockets_know_it(registered: None) -> None:
    assert schemas()[ECHO.path] is ChatRequest and wire_fields(ECHO.path)
    assert consumers().keys() == {"/v1/responses", ECHO.socket_path}


def test_without_it_nothing_knows_it() -> None:
    assert who_may("gateway:echo_once") is None and who_may_connect(ECHO.socket_path) is None
    assert body_bound(ECHO.path) < 5 * MB
    assert "echo" not in all_scopes() and ECHO.path not in schemas()


@pytest.mark.parametrize("one", ENDPOINTS)
def test_a_name_or_a_route_is_registered_once(one: Endpoint) -> None:
    with pytest.raises(ValueError, match=one.name):
        endpoint_registry.register(one)
