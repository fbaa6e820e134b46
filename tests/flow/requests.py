"""Requests that flow tests send, and how they read streams."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.flow.house import House


def body(content: str = "Hello", **fields: Any) -> dict[str, Any]:
    return {"model": "stub", "messages": [{"role": "user", "content": content}], "max_tokens": 8, **fields}


def post(
    house: House, payload: dict[str, Any], *, path: str = "chat/completions", key: str | None = None
) -> httpx.Response:
    return httpx.post(f"{house.url}/v1/{path}", json=payload, headers=house.headers(key), timeout=60)


def events(response: httpx.Response) -> list[Any]:
    """The data of each server-sent event, in order."""
    lines = [line.removeprefix("data: ") for line in response.text.split("\n\n") if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


@contextmanager
def streaming(
    house: House, payload: dict[str, Any], *, key: str | None = None
) -> Iterator[Iterator[dict[str, Any] | str]]:
    """The events of a stream while they come."""
    url = f"{house.url}/v1/chat/completions"
    with (
        httpx.Client(timeout=60) as client,
        client.stream("POST", url, json={**payload, "stream": True}, headers=house.headers(key)) as response,
    ):
        yield (
            line[6:] if line == "data: [DONE]" else json.loads(line[6:])
            for line in response.iter_lines()
            if line.startswith("data: ")
        )


@contextmanager
def socket(house: House, *, key: str | None = None, **arguments: Any) -> Iterator[ClientConnection]:
    url = house.url.replace("http", "ws") + "/v1/responses"
    with connect(url, additional_headers=house.headers(key), open_timeout=60, **arguments) as connection:
        yield connection


def create(content: str = "Hello", *, stream_id: str | None = None, **fields: Any) -> str:
    stream = {} if stream_id is None else {"stream_id": stream_id}
    return json.dumps({"type": "response.create", **stream, **body(content, **fields)})


def frames_until_end(connection: ClientConnection) -> list[dict[str, Any]]:
    """The frames of one answer, its last included."""
    frames = []
    while not frames or frames[-1]["type"] == "chat.completion.chunk":
        frames.append(json.loads(connection.recv(timeout=60)))
    return frames


def text_of(frames: list[dict[str, Any]]) -> str:
    chunks = [one["chunk"] for one in frames if one["type"] == "chat.completion.chunk"]
    return "".join(one["choices"][0]["delta"].get("content", "") for one in chunks)
