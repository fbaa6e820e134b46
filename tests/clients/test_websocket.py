"""A WebSocket client that holds the same conversation as a REST client, with the real model."""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import ClientConnection, connect

from tests.clients.served import MODEL, Served

pytestmark = [pytest.mark.server, pytest.mark.model]

ASK = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Name three colours of the rainbow."}],
    "temperature": 0,
    "max_tokens": 24,
}


def opened(served: Served, key: str | None = None) -> ClientConnection:
    headers = {"Authorization": f"Bearer {key or served.key}"}
    return connect(f"ws://127.0.0.1:{served.port}/v1/responses", additional_headers=headers)


def create(socket: ClientConnection, **fields: Any) -> None:
    socket.send(json.dumps({"type": "response.create", **ASK, **fields}))


def frames_until_all_end(socket: ClientConnection, *stream_ids: str | None) -> dict[str | None, list[Any]]:
    """The frames of each stream, up to the one that ends it."""
    frames: dict[str | None, list[Any]] = {one: [] for one in stream_ids}
    open_streams = set(stream_ids)
    while open_streams:
        frame = json.loads(socket.recv(timeout=60))
        frames[frame.get("stream_id")].append(frame)
        if frame["type"] != "chat.completion.chunk":
            open_streams.discard(frame.get("stream_id"))
    return frames


def text(frames: list[Any]) -> str:
    return "".join(
        frame["chunk"]["choices"][0]["delta"].get("content", "")
        for frame in frames
        if frame["type"] == "chat.completion.chunk"
    )


def test_socket_and_rest_give_the_same_text_and_the_same_usage(served: Served) -> None:
    with served.api() as api, opened(served) as socket:
        plain = api.post("chat/completions", json=ASK).json()
        create(socket)
        frames = frames_until_all_end(socket, None)[None]
    assert frames[-1]["type"] == "chat.completion.done"
    assert text(frames) == plain["choices"][0]["message"]["content"]
    assert frames[-1]["usage"]["completion_tokens"] == plain["usage"]["completion_tokens"]
    assert [frame["sequence_number"] for frame in frames] == list(range(len(frames)))


def test_two_streams_run_at_once_on_one_socket_and_cancelling_one_leaves_the_other(served: Served) -> None:
    with opened(served) as socket:
        create(socket, stream_id="long", max_tokens=2000, ignore_eos=True)
        create(socket, stream_id="short", max_tokens=40, ignore_eos=True)
        first = {json.loads(socket.recv(timeout=60))["stream_id"] for _ in range(20)}
        assert first == {"long", "short"}
        socket.send(json.dumps({"type": "response.cancel", "stream_id": "long"}))
        frames = frames_until_all_end(socket, "long", "short")
    assert frames["long"][-1]["type"] == "chat.completion.cancelled"
    assert frames["short"][-1]["type"] == "chat.completion.done"
    assert frames["short"][-1]["usage"]["completion_tokens"] == 40
    served.wait_for("pilothouse_requests_running", 0)


def test_socket_without_a_valid_key_is_refused_at_the_handshake(served: Served) -> None:
    with pytest.raises(InvalidStatus) as caught, opened(served, key="ph_wrong"):
        raise AssertionError("the handshake was accepted")
    assert caught.value.response.status_code == 403


def test_refused_request_is_an_error_frame_and_the_socket_stays_open(served: Served) -> None:
    with opened(served) as socket:
        create(socket, tools=[{"type": "function", "function": {"name": "f"}}])
        error = frames_until_all_end(socket, None)[None][-1]
        assert (error["type"], error["status"], error["error"]["param"]) == ("error", 400, "tools")
        create(socket)
        assert frames_until_all_end(socket, None)[None][-1]["type"] == "chat.completion.done"
