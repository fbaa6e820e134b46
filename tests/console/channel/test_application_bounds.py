"""What holds under every ASGI server: sizes as announced and counted, hosts of sockets, clients by number."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from console.channel.application_bounds import ApplicationBounds


class Application:
    def __init__(self) -> None:
        self.scopes: list[dict[str, Any]] = []
        self.bodies: list[bytes] = []
        self.goes_on = asyncio.Event()
        self.goes_on.set()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.scopes.append(scope)
        if scope["type"] == "http":
            message = await receive()
            assert not message["more_body"]
            self.bodies.append(message["body"])
        await self.goes_on.wait()
        await send({"type": "http.response.start", "status": 200, "headers": []})


async def asked(
    bounds: ApplicationBounds,
    *pieces: bytes,
    headers: dict[str, str] | None = None,
    client: str = "1.2.3.4",
    **scope: Any,
) -> list[dict[str, Any]]:
    named = {"host": "localhost", **(headers or {})}
    raw = [(name.encode(), value.encode()) for name, value in named.items() if value]
    queue = [{"type": "http.request", "body": piece, "more_body": True} for piece in pieces]
    queue.append({"type": "http.request", "body": b"", "more_body": False})
    sent: list[dict[str, Any]] = []

    async def receive() -> Any:
        return queue.pop(0) if queue else {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    whole = {"type": "http", "path": "/v1/models", "http_version": "1.1", "client": [client, 1], **scope}
    await bounds({"headers": raw, **whole}, receive, send)
    return sent


async def test_a_body_comes_whole_and_one_that_grows_too_large_is_refused() -> None:
    application = Application()
    bounds = ApplicationBounds(application, most_per_address=10)
    assert (await asked(bounds, b"a" * 1000, b"b" * 1000))[0]["status"] == 200
    assert application.bodies == [b"a" * 1000 + b"b" * 1000]
    assert (await asked(bounds, *[b"x" * 30_000] * 10))[0]["status"] == 413
    announced = {"content-length": "70000"}
    assert (await asked(bounds, headers=announced))[0]["status"] == 413
    assert len(application.bodies) == 1


async def test_an_encoded_body_and_a_missing_host_are_refused() -> None:
    bounds = ApplicationBounds(Application(), most_per_address=10)
    assert (await asked(bounds, headers={"content-encoding": "gzip"}))[0]["status"] == 415
    assert (await asked(bounds, headers={"host": ""}))[0]["status"] == 400


async def test_requests_of_a_client_that_are_being_answered_are_counted() -> None:
    application = Application()
    application.goes_on.clear()
    bounds = ApplicationBounds(application, most_per_address=3)
    running = [asyncio.create_task(asked(bounds, client="1.1.1.1")) for _ in range(3)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (await asked(bounds, client="1.1.1.1"))[0]["status"] == 429
    application.goes_on.set()
    assert (await asked(bounds, client="2.2.2.2"))[0]["status"] == 200
    await asyncio.gather(*running)
    assert (await asked(bounds, client="1.1.1.1"))[0]["status"] == 200
    assert not bounds._counts


@pytest.mark.parametrize(
    ("host", "is_ours"),
    [("localhost:8000", True), ("[::1]", True), ("evil.example", False)],
)
async def test_a_socket_has_one_of_our_hosts(host: str, is_ours: bool) -> None:
    application = Application()
    sent = await asked(
        ApplicationBounds(application, most_per_address=9), headers={"host": host}, type="websocket"
    )
    assert bool(application.scopes) is is_ours
    assert is_ours or sent == [{"type": "websocket.close"}]


async def test_nobody_chooses_a_prefix() -> None:
    application = Application()
    await asked(ApplicationBounds(application, most_per_address=9), root_path="/v1")
    assert application.scopes[0]["root_path"] == ""
