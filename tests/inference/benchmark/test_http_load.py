"""The load counts what a server really sent, over a real socket, and goes nowhere but this machine."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from inference.benchmark.http_load import Endpoint, Load, ask, drive

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"


def event(content: str | None = None, **more: object) -> bytes:
    choices = [] if content is None else [{"index": 0, "delta": {"content": content}}]
    return b"data: " + json.dumps({"choices": choices, **more}).encode() + b"\n\n"


ANSWER = [
    event(""),
    b": keep-alive\n\n",
    event("one"),
    event(" two three"),
    event(usage={"completion_tokens": 3}),
    b"data: [DONE]\n\n",
]


class Stub:
    """An HTTP server that reads one request and sends one prepared answer, in pieces."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, object]] = []
        self.head = SSE + b"Connection: close\r\n\r\n"
        self.pieces = ANSWER
        self.num_open = 0
        self.most_open = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.num_open += 1
        self.most_open = max(self.most_open, self.num_open)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        self.bodies.append(json.loads(await reader.readexactly(length)))
        try:
            writer.write(self.head)
            for piece in self.pieces[:-1]:
                writer.write(piece)
                await asyncio.sleep(0.002)
            self.num_open -= 1  # the client may come again once it has the last piece
            writer.write(self.pieces[-1])
        finally:
            writer.close()


@pytest.fixture
async def stub() -> AsyncIterator[tuple[Stub, Endpoint]]:
    answering = Stub()
    server = await asyncio.start_server(answering, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        yield answering, Endpoint(f"http://127.0.0.1:{port}/v1", "m", "secret")


async def test_tokens_are_those_of_the_usage_chunk(stub: tuple[Stub, Endpoint]) -> None:
    outcome = await ask(stub[1], "hello", max_tokens=64)
    assert (outcome.num_tokens, outcome.num_chunks, outcome.error) == (3, 2, "")
    assert 0 < outcome.first_token_seconds < outcome.total_seconds
    assert len(outcome.gaps) == 1


async def test_chunked_transfer_with_events_split_anywhere_is_read_the_same(
    stub: tuple[Stub, Endpoint],
) -> None:
    answering, endpoint = stub
    whole = b"".join(ANSWER)
    answering.head = SSE + b"Transfer-Encoding: chunked\r\n\r\n"
    answering.pieces = [
        f"{len(whole[start : start + 7]):x}\r\n".encode() + whole[start : start + 7] + b"\r\n"
        for start in range(0, len(whole), 7)
    ] + [b"0\r\n\r\n"]
    outcome = await ask(endpoint, "hello", max_tokens=64)
    assert (outcome.num_tokens, outcome.num_chunks, outcome.error) == (3, 2, "")


async def test_server_without_usage_is_counted_by_chunks(stub: tuple[Stub, Endpoint]) -> None:
    stub[0].pieces = [event("one"), event(" two"), b"data: [DONE]\n\n"]
    assert (await ask(stub[1], "hello", max_tokens=64)).num_tokens == 2


async def test_refusal_and_error_in_mid_stream_are_errors_and_count_no_tokens(
    stub: tuple[Stub, Endpoint],
) -> None:
    answering, endpoint = stub
    answering.pieces = [event("one"), b'data: {"error": {"code": "engine_error"}}\n\n']
    assert "engine_error" in (await ask(endpoint, "hello", max_tokens=64)).error
    answering.head, answering.pieces = (
        b"HTTP/1.1 429 Too Many Requests\r\nConnection: close\r\n\r\n",
        [b"slow down"],
    )
    report = await drive(endpoint, Load(1, 1))
    assert "429" in str(report["errors"]) and report["output_tokens"] == 0


async def test_every_client_has_one_request_at_a_time_until_the_list_is_done(
    stub: tuple[Stub, Endpoint],
) -> None:
    answering, endpoint = stub
    report = await drive(endpoint, Load(3, 7))
    assert (report["requests"], report["errors"], report["output_tokens"]) == (7, [], 21)
    assert answering.most_open <= 3
    assert all(body["temperature"] == 0 and body["max_tokens"] == 64 for body in answering.bodies)


def test_two_servers_get_the_same_prompts_and_another_repeat_gets_others() -> None:
    assert Load(8, 4, seed=1).prompts() == Load(8, 4, seed=1).prompts()
    assert not set(Load(8, 4, seed=1).prompts()) & set(Load(8, 4, seed=2).prompts())
    assert all(len(prompt.split()) == 48 for prompt in Load(8, 4).prompts())


@pytest.mark.parametrize("url", ["http://192.0.2.1:8000/v1", "https://127.0.0.1/v1", "http://0.0.0.0:80/v1"])
def test_load_goes_nowhere_but_this_machine(url: str) -> None:
    with pytest.raises(ValueError, match="this machine"):
        Endpoint(url, "m")
