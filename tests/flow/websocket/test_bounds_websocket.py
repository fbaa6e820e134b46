"""What a WebSocket may cost: frames at a rate, few fragments, no more sockets than a key may have. Nothing is
read from a client that does not read.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import httpx
import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.flow.house import House, eventually
from tests.flow.raw import connected, head, pour, read_all, status_of
from tests.flow.requests import create, frames_until_end
from tests.flow.requests import socket as opened

pytestmark = pytest.mark.server

TEXT, CONTINUATION, PING = 1, 0, 9


def frame(opcode: int, payload: bytes = b"", *, is_last: bool = True) -> bytes:
    """A client's frame, masked with zeros."""
    size = len(payload)
    length = bytes([0x80 | size]) if size < 126 else b"\xfe" + struct.pack("!H", size)
    return bytes([opcode | (0x80 if is_last else 0)]) + length + b"\0\0\0\0" + payload


@contextmanager
def upgraded(house: House, key: str) -> Iterator[socket.socket]:
    with connected(house) as connection:
        connection.sendall(
            head(
                "GET",
                "/v1/responses",
                "Upgrade: websocket",
                "Connection: Upgrade",
                "Sec-WebSocket-Version: 13",
                "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
                f"Authorization: Bearer {key}",
            )
        )
        assert status_of(connection.recv(4096)) == 101
        yield connection


@pytest.mark.parametrize(
    "flood",
    [frame(PING, b"x" * 100), frame(TEXT, b"{" + b" " * 90), frame(PING)],
    ids=["pings", "bad frames", "empty pings"],
)
def test_a_flood_of_frames_waits_in_the_client(narrow: House, flood: bytes) -> None:
    """The kernel's buffers hold a few megabytes of it; what is worked on is 50 frames a second."""
    with upgraded(narrow, narrow.new_key()) as connection:
        pieces = itertools.repeat(flood * (60_000 // len(flood)))
        assert pour(connection, pieces, most=60_000_000) < 30_000_000
        assert httpx.get(f"{narrow.url}/health").status_code == 200


def test_a_client_that_reads_no_pongs_is_read_no_more_and_then_cut_off(narrow: House) -> None:
    with upgraded(narrow, narrow.new_key()) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        pings = itertools.repeat(frame(PING, b"x" * 125) * 400)
        assert pour(connection, pings, most=60_000_000) < 30_000_000


def test_a_message_has_few_fragments(narrow: House) -> None:
    with upgraded(narrow, narrow.new_key()) as connection:
        connection.sendall(frame(TEXT, is_last=False) + frame(CONTINUATION, is_last=False) * 1000)
        answer = read_all(connection)
    assert struct.pack("!H", 1008) in answer[:4]


def test_a_message_of_some_fragments_is_one(narrow: House) -> None:
    with opened(narrow, key=narrow.new_key()) as connection:
        text = create("Hello")
        connection.send(text[i : i + 10] for i in range(0, len(text), 10))
        assert frames_until_end(connection)[-1]["type"] == "chat.completion.done"


def test_a_key_has_few_sockets_and_one_that_closes_makes_room(narrow: House) -> None:
    key = narrow.new_key()
    with ExitStack() as stack:
        sockets = [stack.enter_context(opened(narrow, key=key)) for _ in range(3)]
        with opened(narrow, key=key) as more:
            refused = json.loads(more.recv(timeout=60))
            assert (refused["status"], refused["error"]["code"]) == (429, "too_many_connections")
            with pytest.raises(ConnectionClosed) as closed:
                more.recv(timeout=60)
        assert closed.value.rcvd is not None and closed.value.rcvd.code == 4429
        with opened(narrow, key=narrow.new_key()) as other:  # of another key
            other.send(create())
            assert frames_until_end(other)[-1]["type"] == "chat.completion.done"
        sockets[0].close()

        def has_room() -> bool:
            with opened(narrow, key=key) as again:
                again.send(create())
                return bool(json.loads(again.recv(timeout=60))["type"] == "chat.completion.chunk")

        assert eventually(has_room)


def test_a_burst_of_requests_within_the_rate_is_answered(narrow: House) -> None:
    with opened(narrow, key=narrow.new_key()) as connection:
        for number in range(8):
            for _ in range(9):
                connection.send(create(stream_id=f"stream{number}", max_tokens=1))
        done = 0
        while done < 72:
            kind = json.loads(connection.recv(timeout=60))["type"]
            assert kind != "error"
            done += kind == "chat.completion.done"


def test_no_frame_is_taken_before_the_handshake_is_answered(narrow: House) -> None:
    lines = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    lines += [f"Authorization: Bearer {narrow.new_key()}", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
    with connected(narrow) as connection:
        connection.sendall(head("GET", "/v1/responses", *lines))
        connection.sendall(head("GET", "/again", *lines) * 3)  # what stood for another head
        assert read_all(connection).count(b"101 Switching") == 1


def test_a_socket_is_opened_under_our_own_names_only(narrow: House) -> None:
    cookie = narrow.ask("session")
    for host in ("evil.example", "evil.example:80", ""):
        with connected(narrow) as connection:
            lines = [
                f"Cookie: {cookie}",
                f"Origin: http://{host}",
                "Connection: Upgrade",
                "Upgrade: websocket",
            ]
            lines += ["Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
            connection.sendall(head("GET", "/v1/responses", *lines, host=host))
            assert status_of(read_all(connection)) in (400, 403), host


def test_a_reader_who_reads_nothing_is_cut_off_and_its_request_cancelled(narrow: House) -> None:
    key = narrow.new_key()
    before = resident_bytes(narrow)
    with ExitStack() as stack:
        for _ in range(3):
            connection = stack.enter_context(upgraded(narrow, key))
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            request = create("Hello", n=8, logprobs=True, top_logprobs=20, max_tokens=3000).encode()
            connection.sendall(frame(TEXT, request))
        eventually(lambda: len(narrow.ask("usage", key)) == 3, seconds=120)
    rows = narrow.ask("usage", key)
    assert {row["outcome"] for row in rows} == {"cancelled"}
    assert resident_bytes(narrow) - before < 60_000_000


def resident_bytes(house: House) -> int:
    with open(f"/proc/{house.process.pid}/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_who_is_refused_takes_no_place(narrow: House) -> None:
    key = narrow.new_key()
    for _ in range(10):
        with pytest.raises(InvalidStatus), connect(narrow.url.replace("http", "ws") + "/v1/responses"):
            pass
    with opened(narrow, key=key) as connection:
        connection.send(create())
        assert frames_until_end(connection)[-1]["type"] == "chat.completion.done"
