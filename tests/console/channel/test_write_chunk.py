"""Chunks of a stream go into the socket at once, and never before bytes that wait already."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet import main

from console.channel.backpressure import write_chunk

DATA = b"data: {}\n\n"
CHUNK = b"%x\r\n%b\r\n" % (len(DATA), DATA)


class Transport:
    """A Twisted transport as far as `write_chunk` knows it."""

    TLS = False
    connected, disconnecting = 1, 0

    def __init__(self, takes: Any = 1 << 20) -> None:
        self.takes = takes  # bytes that the kernel has room for, or what says that it is gone
        self.dataBuffer = b""
        self._tempDataBuffer: list[bytes] = []
        self.sent = b""

    def writeSomeData(self, data: bytes) -> Any:
        if not isinstance(self.takes, int):
            return self.takes
        self.sent += data[: self.takes]
        return len(data[: self.takes])

    def write(self, data: bytes) -> None:
        self._tempDataBuffer.append(data)


class Request:
    finished, chunked, sentLength = 0, 1, 0

    def __init__(self, transport: Transport) -> None:
        self.channel: Any = type("Channel", (), {"transport": transport})()
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)


def test_a_free_socket_gets_it_at_once() -> None:
    transport = Transport()
    request = Request(transport)
    write_chunk(request, DATA)
    assert transport.sent == CHUNK and not request.written and not transport._tempDataBuffer
    assert request.sentLength == len(DATA)


@pytest.mark.parametrize("num_taken", [0, 1, len(CHUNK) - 1])
def test_what_the_kernel_does_not_take_waits(num_taken: int) -> None:
    transport = Transport(num_taken)
    write_chunk(Request(transport), DATA)
    assert transport.sent + b"".join(transport._tempDataBuffer) == CHUNK


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dataBuffer", b"x"),
        ("_tempDataBuffer", [b"x"]),
        ("TLS", True),
        ("connected", 0),
        ("disconnecting", 1),
    ],
)
def test_nothing_overtakes(name: str, value: Any) -> None:
    transport = Transport()
    setattr(transport, name, value)
    request = Request(transport)
    write_chunk(request, DATA)
    assert transport.sent == b"" and request.written == [DATA]


def test_an_old_client_gets_no_chunks() -> None:
    transport = Transport()
    request = Request(transport)
    request.chunked = 0  # HTTP/1.0
    write_chunk(request, DATA)
    assert transport.sent == b"" and request.written == [DATA]


def test_a_lost_connection_is_left_to_twisted() -> None:
    transport = Transport(main.CONNECTION_LOST)
    write_chunk(Request(transport), DATA)
    assert transport._tempDataBuffer == [CHUNK]


@pytest.mark.parametrize("data", [b"", DATA])
def test_nothing_ends_the_body_but_its_end(data: bytes) -> None:
    transport = Transport()
    request = Request(transport)
    if data:
        request.finished = 1
    write_chunk(request, data)  # an empty chunk would be the last
    assert transport.sent == b"" and not request.written
