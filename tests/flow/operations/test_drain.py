"""SIGTERM: streams complete, what is left at the deadline ends with an error event, and the exit is clean."""

from __future__ import annotations

import json
import signal
from itertools import islice
from pathlib import Path

import httpx
import pytest

from tests.flow.house import House, eventually
from tests.flow.requests import body, create, frames_until_end, socket, streaming

pytestmark = pytest.mark.server


def test_a_stream_and_a_socket_complete_after_sigterm_and_nothing_new_is_taken(tmp_path: Path) -> None:
    with House(tmp_path) as house:
        with socket(house) as connection, streaming(house, body("slow", max_tokens=40)) as events:
            connection.send(create("slow", max_tokens=40))
            connection.recv(timeout=60)
            first = list(islice(events, 3))
            house.process.send_signal(signal.SIGTERM)
            rest = list(events)
            assert rest[-1] == "[DONE]"
            assert len(first) + len(rest) == 1 + 40 + 1 + 1  # role, tokens, reason, [DONE]
            assert frames_until_end(connection)[-1]["type"] == "chat.completion.done"
            with pytest.raises(httpx.ConnectError):
                httpx.get(f"{house.url}/ready")
        assert house.process.wait(60) == 0
        assert [row["outcome"] for row in house.ask("usage", house.key)] == ["finished", "finished"]


def test_a_second_signal_ends_streams_with_an_error_event(tmp_path: Path) -> None:
    with House(tmp_path) as house:
        with streaming(house, body("slow", max_tokens=2000)) as events:
            assert len(list(islice(events, 3))) == 3
            house.process.send_signal(signal.SIGINT)
            eventually(lambda: not can_connect(house))
            house.process.send_signal(signal.SIGINT)
            last = list(events)[-1]
        assert isinstance(last, dict)
        assert last["error"]["code"] == "server_shutting_down"
        assert house.process.wait(60) == 0
        (row,) = house.ask("usage", house.key)
        assert row["outcome"] == "cancelled"
        assert row["completion_tokens"] >= 2


def test_a_second_start_keeps_the_keys_and_says_how_to_get_others(tmp_path: Path) -> None:
    with House(tmp_path) as house:
        key = house.key
        assert httpx.post(f"{house.url}/v1/chat/completions", json=body(), headers=house.headers()).is_success
        first = tmp_path / "first-sign-in.txt"
        before = first.read_text()
        house.restart()
        assert first.read_text() == before and "first-sign-in" not in house.output.read_text()
        assert "issue_key" in house.output.read_text()
        answer = httpx.post(f"{house.url}/v1/chat/completions", json=body(), headers=house.headers(key))
        assert answer.is_success, json.dumps(answer.json())


def can_connect(house: House) -> bool:
    try:
        httpx.get(f"{house.url}/health")
    except httpx.TransportError:
        return False
    return True
