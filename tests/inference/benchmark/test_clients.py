"""A load from several processes sends every request once, and token ids go to the completions endpoint."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterator

import pytest

from inference.benchmark.clients import drive_from_processes
from inference.benchmark.http_load import Endpoint

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n"


class Stub:
    """Answers completions in a thread of its own, two tokens each."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, dict[str, object]]] = []
        self.loop = asyncio.new_event_loop()
        self.port = 0
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def __enter__(self) -> Stub:
        self._thread.start()
        assert self._is_up.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()
        self.loop.close()

    def _serve(self) -> None:
        server = self.loop.run_until_complete(asyncio.start_server(self._answer, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._is_up.set()
        self.loop.run_forever()
        server.close()
        self.loop.run_until_complete(asyncio.sleep(0))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = int(head.split("content-length: ")[1].split("\r\n")[0])
        body = json.loads(await reader.readexactly(length))
        self.asked.append((head.split(" ")[1], body))
        writer.write(HEAD)
        for text in ("one", "two"):
            writer.write(b"data: " + json.dumps({"choices": [{"text": text}]}).encode() + b"\n\n")
        usage = {"choices": [], "usage": {"completion_tokens": 2}}
        writer.write(b"data: " + json.dumps(usage).encode() + b"\n\ndata: [DONE]\n\n")
        writer.close()


@pytest.fixture
def stub() -> Iterator[Stub]:
    with Stub() as answering:
        yield answering


def test_every_request_is_sent_once_by_some_process(stub: Stub) -> None:
    requests: list[tuple[str | tuple[int, ...], int]] = [((number, number + 1), 2) for number in range(7)]
    endpoint = Endpoint(f"http://127.0.0.1:{stub.port}/v1", "m", "secret")
    found = drive_from_processes(endpoint, requests, num_streams=3, num_processes=2)
    assert (found["requests"], found["errors"], found["output_tokens"]) == (7, [], 14)
    assert sorted(body["prompt"] for _, body in stub.asked) == [[n, n + 1] for n in range(7)]  # type: ignore[type-var]
    assert {route for route, _ in stub.asked} == {"/v1/completions"}
    assert all(body["ignore_eos"] and body["max_tokens"] == 2 for _, body in stub.asked)
