"""The application under another ASGI server: started and drained by lifespan, cancelled by disconnects."""

from __future__ import annotations

import itertools
import signal
from itertools import islice
from pathlib import Path

import httpx
import pytest

from tests.flow.house import House, eventually
from tests.flow.raw import connected, head, pour, read_all, status_of
from tests.flow.requests import body, create, frames_until_end, post, socket, streaming

pytestmark = pytest.mark.server

pytest.importorskip("uvicorn")


def bounds_hold(house: House) -> None:
    """docs/operations.md says which bounds are left to the other server."""
    url = f"{house.url}/account/sign-in/"
    for path in ("/v1/chat/completions", "/account/sign-in/"):
        with connected(house) as connection:
            connection.sendall(head("POST", path, "Transfer-Encoding: chunked"))
            chunk = b"ea60\r\n" + b"x" * 60_000 + b"\r\n"
            assert pour(connection, itertools.repeat(chunk), most=100_000_000) < 50_000_000
            assert status_of(read_all(connection)) in (0, 413)  # 0: still sending when it was closed
    with connected(house) as connection:
        connection.sendall(head("POST", "/account/sign-in/", "Content-Length: 300000"))
        assert status_of(connection.recv(1000)) == 413
    assert httpx.post(url, content=b"x", headers={"content-encoding": "gzip"}).status_code == 415
    assert httpx.get(f"{house.url}/v1/language", headers={"daphne-root-path": "/v1"}).status_code == 404
    lines = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    lines += [f"Authorization: Bearer {house.new_key()}", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    with connected(house) as connection:
        connection.sendall(head("GET", "/v1/responses", *lines, host="evil.example"))
        assert status_of(connection.recv(1000)) == 403


def test_uvicorn_serves_frees_and_finishes_streams(tmp_path: Path) -> None:
    with House(tmp_path, command=["-m", "uvicorn", "console.asgi:application", "--port", "{port}"]) as house:
        key = house.new_key()
        assert post(house, body(), key=key).is_success
        bounds_hold(house)
        with socket(house, key=key) as connection:
            connection.send(create())
            assert frames_until_end(connection)[-1]["type"] == "chat.completion.done"
        with streaming(house, body("slow", max_tokens=500), key=key) as events:
            assert len(list(islice(events, 4))) == 4
        eventually(lambda: house.num_running() == 0)
        with streaming(house, body("slow", max_tokens=30), key=key) as events:
            assert len(list(islice(events, 2))) == 2
            house.process.send_signal(signal.SIGTERM)
            assert list(events)[-1] == "[DONE]"
        assert house.process.wait(60) == -signal.SIGTERM  # uvicorn ends by the signal that it got
        rows = house.ask("usage", key)
        assert [row["outcome"] for row in rows] == ["finished", "finished", "cancelled", "finished"]
