"""Floods at a real server: no turn of its loop is long, its memory stays, others are answered meanwhile."""

from __future__ import annotations

import itertools
import json
import math
import os
import socket
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.flow.house import House, eventually
from tests.flow.raw import connected, head, pour, read_all
from tests.flow.requests import body, create, post
from tests.flow.websocket.test_bounds_websocket import (
    CONTINUATION,
    PING,
    TEXT,
    frame,
    resident_bytes,
    upgraded,
)
from tests.reliability.watched import FILE

pytestmark = pytest.mark.server

MOST_LOOP_MS = 100.0
MOST_RISE_BYTES = 50_000_000
LEAST_BESIDE = 3
NUM_READERS = 500
NUM_HALF_OPEN = 2000


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    engine = {"ENGINE": "tests.reliability.watched.WatchedEngine"}
    with House(tmp_path_factory.mktemp("watched"), before=[["seed"]], STALL_SECONDS="10", **engine) as house:
        post(house, body())  # what is read at the first request
        yield house


class Beside:
    """Asks for a completion over and over while something else happens."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._key = house.new_key("beside")
        self._is_over = threading.Event()
        self.seconds: list[float] = []
        self.statuses: set[int] = set()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Beside:
        self._loop_file.unlink(missing_ok=True)
        self.memory = resident_bytes(self._house)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        self.rise = resident_bytes(self._house) - self.memory
        self.loop_ms = float(eventually(lambda: self._loop_file.exists() and self._loop_file.read_text()))

    @property
    def _loop_file(self) -> Path:
        return Path(self._house.environment["DATA_DIR"]) / FILE

    def _run(self) -> None:
        headers = self._house.headers(self._key)
        with httpx.Client(headers=headers, timeout=60) as client:
            while not self._is_over.wait(0.05) or len(self.seconds) < LEAST_BESIDE:
                began = time.monotonic()
                answer = client.post(f"{self._house.url}/v1/chat/completions", json=body(max_tokens=1))
                self.seconds.append(time.monotonic() - began)
                self.statuses.add(answer.status_code)

    def tell(
        self, name: str, *, most_loop_ms: float = MOST_LOOP_MS, most_rise_bytes: int = MOST_RISE_BYTES
    ) -> None:
        median, most = statistics.median(self.seconds) * 1000, max(self.seconds) * 1000
        print(
            f"{name}: loop {self.loop_ms:.0f} ms of CPU at most, memory {self.rise / 1e6:+.1f} MB, "
            f"{len(self.seconds)} others in {median:.0f} ms (median), {most:.0f} ms (most)"
        )
        assert self.statuses == {200}
        assert self.loop_ms <= most_loop_ms
        assert self.rise <= most_rise_bytes


def bodies(house: House) -> None:
    for path in ("/v1/chat/completions", "/account/sign-in/", "/nothing"):
        for line in ("Content-Length: 300000000", "Transfer-Encoding: chunked"):
            with connected(house, source="127.0.0.2") as connection:
                connection.sendall(head("POST", path, line))
                chunk = b"ea60\r\n" + b"x" * 60_000 + b"\r\n" if "chunked" in line else b"x" * 60_000
                pour(connection, itertools.repeat(chunk), most=300_000_000)
                read_all(connection)


def tiny_chunks(house: House) -> None:
    for _ in range(10):
        with connected(house, source="127.0.0.2") as connection:
            connection.sendall(head("POST", "/v1/chat/completions", "Transfer-Encoding: chunked"))
            pour(connection, itertools.repeat(b"1\r\nx\r\n" * 10_000), most=20_000_000)


def heads(house: House) -> None:
    for line in ("X: y\r\n" * 10_000, "X: " + "y" * 1_000_000 + "\r\n", ":\r\n" * 10_000):
        for _ in range(20):
            with connected(house, source="127.0.0.2") as connection:
                pour(connection, [b"GET / HTTP/1.1\r\n" + line.encode()], most=10_000_000)
                read_all(connection)


def pipelined(house: House) -> None:
    with connected(house, source="127.0.0.2") as connection:
        pour(connection, [head("GET", "/health") * 2000], most=10_000_000, stalled=30)
        connection.settimeout(2)
        read_all(connection)


def frames_of(payload: bytes) -> Callable[[House], None]:
    def flood(house: House) -> None:
        key = house.new_key("flood")
        with ExitStack() as stack:
            sockets = [stack.enter_context(upgraded(house, key)) for _ in range(4)]
            for one in sockets:
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            for one in sockets:
                pour(one, itertools.repeat(payload * (60_000 // len(payload))), most=20_000_000, stalled=2)

    return flood


def fragments(house: House) -> None:
    with upgraded(house, house.new_key()) as connection:
        first = frame(TEXT, is_last=False)
        pour(connection, [first, frame(CONTINUATION, is_last=False) * 100_000], most=10_000_000)
        read_all(connection)


def large_messages(house: House) -> None:
    with upgraded(house, house.new_key()) as connection:
        large = b"\x81\xff" + (2_000_000).to_bytes(8, "big") + b"\0\0\0\0" + b" " * 2_000_000
        pour(connection, itertools.repeat(large), most=60_000_000)


FLOODS: dict[str, Callable[[House], None]] = {
    "bodies": bodies,
    "tiny chunks": tiny_chunks,
    "heads": heads,
    "pipelined requests": pipelined,
    "pings": frames_of(frame(PING)),
    "bad frames": frames_of(frame(TEXT, b"{")),
    "good frames": frames_of(frame(TEXT, b'{"type":"response.cancel","stream_id":"a"}')),
    "fragments": fragments,
    "large messages": large_messages,
}


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_keeps_nobody_waiting(watched: House, name: str) -> None:
    with Beside(watched) as beside:
        FLOODS[name](watched)
    beside.tell(name)


def test_readers_who_do_not_read_and_connections_that_say_nothing(watched: House) -> None:
    """500 streams that nobody reads, 2,000 heads that never end; then all is given back.

    The stub engine makes its tokens on the loop that is watched: with 500 streams a turn of it is long, and
    its own objects count. 20 log-probabilities a token, at 500 streams, were 64 to 70 MB with all of that.
    """
    key = watched.new_key("readers")
    fields = {"max_tokens": 4000, "stream": True, "logprobs": True, "top_logprobs": 20}
    content = json.dumps(body("slow", **fields)).encode()
    lines = [f"Authorization: Bearer {key}", f"Content-Length: {len(content)}"]
    request = head("POST", "/v1/chat/completions", *lines) + content
    with ExitStack() as stack, Beside(watched) as beside:
        for number in range(NUM_READERS):
            reader = stack.enter_context(socket.socket())
            reader.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            reader.bind((f"127.0.1.{number // 100 + 1}", 0))
            reader.connect(("127.0.0.1", watched.port))
            reader.sendall(request)
            time.sleep(0.01)
        for number in range(NUM_HALF_OPEN):
            half_open = stack.enter_context(connected(watched, source=f"127.0.2.{number // 200 + 1}"))
            half_open.sendall(b"GET / HTTP/1.1\r\n")
        eventually(lambda: len(watched.ask("usage", key)) == NUM_READERS, seconds=300)
    beside.tell("readers who do not read", most_loop_ms=math.inf, most_rise_bytes=100_000_000)
    assert {row["outcome"] for row in watched.ask("usage", key)} == {"cancelled"}
    assert watched.num_running() == 0


def test_one_heavy_request_that_nobody_reads(watched: House) -> None:
    key = watched.new_key("heavy")
    with upgraded(watched, key) as connection, Beside(watched) as beside:
        request = create("Hello", n=8, logprobs=True, top_logprobs=20, max_tokens=4000).encode()
        connection.sendall(frame(TEXT, request))
        eventually(lambda: watched.ask("usage", key), seconds=120)
    beside.tell("n=8, 20 log-probabilities")


def test_sign_ins_of_strangers_do_not_slow_a_key_down(watched: House) -> None:
    def stranger(number: int) -> None:
        for attempt in range(20):
            form = {"login": f"name{number}-{attempt}", "password": "wrong"}
            httpx.post(f"{watched.url}/account/sign-in/", data=form, timeout=60)

    quiet = Beside(watched)
    with quiet:
        time.sleep(5)
    strangers = [threading.Thread(target=stranger, args=[number]) for number in range(16)]
    with Beside(watched) as beside:
        for one in strangers:
            one.start()
        for one in strangers:
            one.join()
    before = statistics.median(quiet.seconds) * 1000
    print(f"without strangers {before:.0f} ms (median), {os.cpu_count()} processors")
    beside.tell("16 strangers")
