"""What strangers may cost over HTTP: every bound is met before anything is stored, and says so."""

from __future__ import annotations

import itertools
import json
import socket
from contextlib import ExitStack, suppress

import httpx
import pytest

from tests.flow.house import House, eventually
from tests.flow.raw import ask, connected, head, pour, read_all, status_of
from tests.flow.requests import body, post

pytestmark = pytest.mark.server

PATHS = ["/v1/chat/completions", "/v1/models", "/account/sign-in/", "/api/v1/keys", "/health", "/nothing"]
HUGE = 5_000_000_000


@pytest.mark.parametrize("path", PATHS)
def test_a_body_that_is_too_large_is_refused_by_its_head(narrow: House, path: str) -> None:
    """Not one byte of it is sent: who waited for it would never answer."""
    answer = ask(narrow, head("POST", path, f"Content-Length: {HUGE}"))
    assert status_of(answer) == 413
    assert b"connection: close" in answer.lower() and b"x-request-id" in answer.lower()
    if path.startswith("/v1/"):
        assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "request_too_large"


def test_a_client_that_waits_for_leave_to_send_gets_none(narrow: House) -> None:
    answer = ask(narrow, head("POST", PATHS[0], f"Content-Length: {HUGE}", "Expect: 100-continue"))
    assert status_of(answer) == 413


@pytest.mark.parametrize("path", PATHS[:3])
@pytest.mark.parametrize("piece_bytes", [60_000, 1])
def test_a_body_without_end_is_cut_where_it_is_too_large(narrow: House, path: str, piece_bytes: int) -> None:
    chunk = b"%x\r\n%b\r\n" % (piece_bytes, b"x" * piece_bytes)
    chunks = chunk * (60_000 // len(chunk) + 1)
    with connected(narrow) as connection:
        connection.sendall(head("POST", path, "Transfer-Encoding: chunked"))
        taken = pour(connection, itertools.repeat(chunks), most=120_000_000)
        answer = read_all(connection)
    assert taken < 60_000_000  # what the kernel holds, and what was dropped
    assert status_of(answer) in (0, 400, 413)  # 0: still sending when it was closed


def test_an_upgrade_has_no_body(narrow: House) -> None:
    lines = ["Upgrade: websocket", "Connection: Upgrade", "Sec-WebSocket-Version: 13"]
    lines.append("Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==")
    for more in ("Content-Length: 1", "Transfer-Encoding: chunked"):
        assert status_of(ask(narrow, head("GET", "/v1/responses", *lines, more))) == 413


@pytest.mark.parametrize(
    ("beginning", "drop"),
    [
        (b"GET /health HTTP/1.1\r\n", b"a: b\r\n"),
        (head("POST", "/v1/chat/completions", "Content-Length: 1000"), b"a"),
        (head("POST", "/account/sign-in/", "Transfer-Encoding: chunked"), b"1\r\na\r\n"),
    ],
)
def test_what_drips_is_answered_at_the_deadline(narrow: House, beginning: bytes, drop: bytes) -> None:
    """Each byte used to move it: 40 of them took ten seconds, and 400 a hundred."""
    with connected(narrow) as connection:
        connection.sendall(beginning)
        connection.settimeout(0.25)
        answer = b""
        for _ in range(40):
            try:
                connection.sendall(drop)
                answer = connection.recv(1000)
                break
            except TimeoutError:
                continue
    assert status_of(answer) == 408


def test_a_connection_that_says_nothing_is_closed(narrow: House) -> None:
    with connected(narrow) as connection:
        assert read_all(connection) == b""
        connection.settimeout(0.1)
        assert connection.recv(1) == b""  # closed, and not our patience


@pytest.mark.parametrize(
    ("lines", "status"),
    [
        ([f"X-{number}: a" for number in range(101)], 431),
        (["X-Same: a"] * 10_000, 431),
        (["X-Long: " + "a" * 20_000], 431),
        ([f"X-{number}: " + "a" * 1000 for number in range(20)], 431),
        ([f"X-{number}: a" for number in range(60)], 200),
        (["no colon"], 400),
    ],
)
def test_headers_are_bounded(narrow: House, lines: list[str], status: int) -> None:
    assert status_of(ask(narrow, head("GET", "/health", *lines, "Connection: close"))) == status


def test_half_open_connections_of_one_address_give_way_to_a_request(narrow: House) -> None:
    with ExitStack() as stack:
        opened = [stack.enter_context(connected(narrow, source="127.0.0.9")) for _ in range(100)]
        for connection in opened:
            with suppress(OSError):  # closed already
                connection.sendall(b"GET /health HTTP/1.1\r\n")
        assert httpx.get(f"{narrow.url}/health").status_code == 200
        with connected(narrow, source="127.0.0.9") as mine:
            mine.sendall(head("GET", "/health", "Connection: close"))
            assert status_of(read_all(mine)) == 200
        assert sum(map(is_open, opened)) <= 40


def is_open(connection: socket.socket) -> bool:
    connection.settimeout(0.001)
    try:
        return connection.recv(1) != b""
    except TimeoutError:
        return True
    except OSError:
        return False


def test_requests_of_one_address_that_are_being_answered_are_bounded(narrow: House) -> None:
    content = json.dumps({**body("hang"), "stream": True}).encode()
    lines = [f"Authorization: Bearer {narrow.new_key()}", f"Content-Length: {len(content)}"]
    request = head("POST", "/v1/chat/completions", *lines) + content
    with ExitStack() as stack:
        for _ in range(40):
            stack.enter_context(connected(narrow, source="127.0.0.8")).sendall(request)
        eventually(lambda: narrow.num_running() == 40, seconds=60)
        with connected(narrow, source="127.0.0.8") as more:
            with suppress(OSError):
                more.sendall(head("GET", "/health"))
            assert read_all(more) == b""  # nothing waits that could give way
        assert httpx.get(f"{narrow.url}/health").status_code == 200
    eventually(lambda: narrow.num_running() == 0)


@pytest.mark.parametrize("path", ["/api/v1/openapi.json", "/health", "/static/console.css", "/playground/"])
def test_head_leaves_nothing_before_the_next_answer(narrow: House, path: str) -> None:
    cookie = narrow.ask("session")
    with connected(narrow) as connection:
        lines = [f"Cookie: {cookie}"]
        connection.sendall(head("HEAD", path, *lines) + head("GET", "/health", "Connection: close"))
        answers = read_all(connection)
    first, _, rest = answers.partition(b"\r\n\r\n")
    assert status_of(first) == 200
    assert status_of(rest) == 200, rest[:100]
    assert rest.count(b"HTTP/1.1 ") == 1


def test_a_request_names_its_host_and_is_not_encoded(narrow: House) -> None:
    assert status_of(ask(narrow, head("GET", "/health", "Connection: close", host=""))) == 400
    for path in ("/v1/chat/completions", "/account/sign-in/"):
        answer = httpx.post(narrow.url + path, content=b"\x1f\x8b", headers={"content-encoding": "gzip"})
        assert answer.status_code == 415
    assert answer.text.startswith("Content-Encoding")


@pytest.mark.parametrize("name", ["Daphne-Root-Path", "daphne-root-path", "DAPHNE-ROOT-PATH"])
def test_no_client_chooses_the_prefix(narrow: House, name: str) -> None:
    headers = {name: "/v1"}
    assert httpx.get(f"{narrow.url}/v1/account/sign-in/", headers=headers).status_code == 404
    assert httpx.post(f"{narrow.url}/v1/language", headers=headers).status_code == 404
    page = httpx.get(f"{narrow.url}/account/sign-in/", headers={name: "/evil"})
    assert page.status_code == 200 and "/evil" not in page.text


def test_ordinary_requests_are_answered_still(narrow: House) -> None:
    key = narrow.new_key()
    long = post(narrow, body("echo " + "x" * 3000, user="u" * 60), key=key)
    assert long.is_success, long.text
    with httpx.Client() as client:
        for _ in range(3):  # over one connection
            assert client.get(f"{narrow.url}/health").status_code == 200
    chunks = (piece for piece in (json.dumps(body()).encode()[:20], json.dumps(body()).encode()[20:]))
    answer = httpx.post(
        f"{narrow.url}/v1/chat/completions", content=chunks, headers=narrow.headers(key), timeout=60
    )
    assert answer.is_success
