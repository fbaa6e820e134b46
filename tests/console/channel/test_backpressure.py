"""A reader that does not read must make the application wait, not fill the server's memory."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import websockets

ROOT = Path(__file__).resolve().parents[3]
CHUNK_BYTES = 256 * 1024
NUM_CHUNKS = 200

# A server of its own process, since Daphne installs a reactor; the application counts what it could send.
SERVER = """
import asyncio, json, sys
import django; django.setup()
from console.channel.connections import Connections
from console.channel.limits import Limits
from console.server.draining_server import DrainingServer

sent = {"n": 0, "ended": ""}

async def application(scope, receive, send):
    async def stream(message):
        try:
            for _ in range(NUM_CHUNKS):
                await send(message)
                sent["n"] += 1
            sent["ended"] = "finished"
        except asyncio.CancelledError:
            sent["ended"] = "cancelled"
            raise
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        await stream({"type": "websocket.send", "bytes": b"x" * CHUNK_BYTES})
        await send({"type": "websocket.close"})
    elif scope["path"] == "/sent":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": json.dumps(sent).encode()})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        chunk = {"type": "http.response.body", "body": b"x" * CHUNK_BYTES, "more_body": True}
        task = asyncio.ensure_future(stream(chunk))
        gone = asyncio.ensure_future(wait_for_disconnect(receive))
        await asyncio.wait({task, gone}, return_when=asyncio.FIRST_COMPLETED)
        task.cancel(); gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)
        await send({"type": "http.response.body", "body": b""})

async def wait_for_disconnect(receive):
    while (await receive())["type"] != "http.disconnect":
        pass

limits = Limits(Connections(most=100, most_per_address=100), stall_seconds=STALL_SECONDS)
server = DrainingServer(application, host="127.0.0.1", port=0, limits=limits, notify_workers=lambda: None)
def notify_workers():
    print(server._ports[0].getHost().port, flush=True)
server._announce = notify_workers
server.run()
"""


class Served:
    def __init__(self, tmp_path: Path, *, stall_seconds: float) -> None:
        constants = f"{CHUNK_BYTES=}; {NUM_CHUNKS=}; STALL_SECONDS = {stall_seconds}\n"
        self.process = subprocess.Popen(
            [sys.executable, "-c", constants + SERVER],
            cwd=ROOT,
            env=os.environ | {"DATA_DIR": str(tmp_path), "DJANGO_SETTINGS_MODULE": "console.settings"},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def __enter__(self) -> Served:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    async def sent(self) -> dict[str, int | str]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        writer.write(b"GET /sent HTTP/1.0\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        found: dict[str, int | str] = json.loads(answer.rpartition(b"\r\n\r\n")[2])
        return found


@pytest.mark.parametrize("version", ["1.0", "1.1"])
async def test_a_reader_that_stops_reading_makes_the_stream_wait_and_gets_all_when_it_goes_on(
    tmp_path: Path, version: str
) -> None:
    with Served(tmp_path, stall_seconds=60) as served:
        reader, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=2**16)
        writer.write(f"GET / HTTP/{version}\r\nhost: here\r\nconnection: close\r\n\r\n".encode())
        await asyncio.sleep(1.5)
        stuck = await served.sent()
        assert stuck["ended"] == ""
        assert int(stuck["n"]) < NUM_CHUNKS / 2
        body = (await reader.read(-1)).partition(b"\r\n\r\n")[2]
        if version == "1.1":
            size = f"{CHUNK_BYTES:x}\r\n".encode()
            assert body == (size + b"x" * CHUNK_BYTES + b"\r\n") * NUM_CHUNKS + b"0\r\n\r\n"
        else:
            assert body == b"x" * NUM_CHUNKS * CHUNK_BYTES
        writer.close()
        await writer.wait_closed()


async def test_a_reader_that_stalls_is_cut_off(tmp_path: Path) -> None:
    with Served(tmp_path, stall_seconds=0.5) as served:
        _, writer = await asyncio.open_connection("127.0.0.1", served.port, limit=2**16)
        writer.write(b"GET / HTTP/1.0\r\n\r\n")
        for _ in range(600):
            await asyncio.sleep(0.1)
            if (await served.sent())["ended"]:
                break
        assert (await served.sent())["ended"] == "cancelled"
        writer.transport.abort()


@pytest.mark.parametrize("reads_on", [True, False])
async def test_a_websocket_is_held_back_the_same_way(tmp_path: Path, reads_on: bool) -> None:
    with Served(tmp_path, stall_seconds=60) as served:
        url = f"ws://127.0.0.1:{served.port}/"
        async with websockets.connect(url, max_queue=1, max_size=None, ping_interval=None) as socket:
            await asyncio.sleep(1.0)
            assert int((await served.sent())["n"]) < NUM_CHUNKS / 2
            if reads_on:
                messages = [message async for message in socket]
                assert len(messages) == NUM_CHUNKS
                assert (await served.sent())["ended"] == "finished"
            else:
                socket.transport.abort()
