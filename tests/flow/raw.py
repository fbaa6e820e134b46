"""A client that says exactly what it is told to, over a plain socket."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from tests.flow.house import House

PATIENCE_SECONDS = 15.0


@contextmanager
def connected(house: House, *, source: str = "127.0.0.1") -> Iterator[socket.socket]:
    """`source`: an address of this machine, of which 127.0.0.0/8 has many."""
    with socket.create_connection(("127.0.0.1", house.port), source_address=(source, 0)) as connection:
        connection.settimeout(PATIENCE_SECONDS)
        yield connection


def head(method: str, path: str, *lines: str, host: str = "127.0.0.1") -> bytes:
    first = [f"{method} {path} HTTP/1.1", *([f"Host: {host}"] if host else [])]
    return "\r\n".join([*first, *lines, "", ""]).encode()


def status_of(answer: bytes) -> int:
    """0: there was none."""
    found = re.match(rb"HTTP/1.1 (\d{3})", answer)
    return int(found[1]) if found else 0


def read_all(connection: socket.socket) -> bytes:
    """What comes until the server has nothing more to say, or for as long as our patience lasts."""
    answer = b""
    try:
        while piece := connection.recv(1 << 16):
            answer += piece
    except OSError:
        pass
    return answer


def ask(house: House, request: bytes) -> bytes:
    with connected(house) as connection:
        connection.sendall(request)
        return read_all(connection)


def pour(connection: socket.socket, pieces: Iterable[bytes], *, most: int, stalled: float = 3.0) -> int:
    """Send until the server answers, stops reading or has taken `most` bytes; how many it took."""
    num_bytes = 0
    connection.settimeout(stalled)
    try:
        for piece in pieces:
            connection.sendall(piece)
            num_bytes += len(piece)
            if num_bytes >= most:
                break
    except OSError:  # it does not read, or has closed
        pass
    connection.settimeout(PATIENCE_SECONDS)
    return num_bytes
