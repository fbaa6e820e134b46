"""The WebSocket over the real server: streams, cancels, errors, and who is let in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect

from tests.flow.house import House, eventually
from tests.flow.requests import create, frames_until_end, socket, text_of

pytestmark = pytest.mark.server


def url_of(house: House, path: str = "/v1/responses") -> str:
    return house.url.replace("http", "ws") + path


def test_of_two_streams_on_one_socket_one_is_cancelled_and_the_other_completes(house: House) -> None:
    key = house.new_key()
    with socket(house, key=key) as connection:
        connection.send(create("slow a", stream_id="a", max_tokens=500))
        connection.send(create("slow b", stream_id="b", max_tokens=20))
        frames: dict[str, list[dict[str, Any]]] = {"a": [], "b": []}
        while not all(stream and stream[-1]["type"] != "chat.completion.chunk" for stream in frames.values()):
            frame = json.loads(connection.recv(timeout=60))
            frames[frame["stream_id"]].append(frame)
            if len(frames["a"]) == 5 and frame["stream_id"] == "a":
                connection.send(json.dumps({"type": "response.cancel", "stream_id": "a"}))
    assert frames["a"][-1]["type"] == "chat.completion.cancelled"
    assert frames["b"][-1]["type"] == "chat.completion.done"
    assert len(text_of(frames["b"]).split()) == 20
    for stream in frames.values():
        assert [one["sequence_number"] for one in stream] == list(range(len(stream)))
    eventually(lambda: len(house.ask("usage", key)) == 2)
    rows = {row["outcome"]: row for row in house.ask("usage", key)}
    assert rows["finished"]["completion_tokens"] == 20
    assert 3 <= rows["cancelled"]["completion_tokens"] < 250


def test_a_stream_answers_one_after_the_other(house: House) -> None:
    with socket(house) as connection:
        connection.send(create("one", stream_id="stream"))
        connection.send(create("two", stream_id="stream"))
        first, second = frames_until_end(connection), frames_until_end(connection)
    assert first[-1]["id"] != second[-1]["id"]
    assert second[0]["sequence_number"] == len(first)


def test_errors_belong_to_their_stream_and_the_socket_lives_on(house: House) -> None:
    cases = [
        ("{", None, "invalid_json"),
        (json.dumps({"type": "response.crate"}), None, "invalid_value"),
        (json.dumps({"type": "response.create", "stream_id": "a b"}), "a b", "invalid_value"),
        (json.dumps({"type": "response.cancel", "stream_id": "idle"}), "idle", "no_active_response"),
        (create(stream_id="x", n=0), "x", "invalid_value"),
        (create(stream_id="x", stream=True), "x", "unsupported_parameter"),
        (create("fail-after-0", stream_id="x"), "x", "engine_error"),
        (
            json.dumps({"type": "response.create", "model": "stub", "input": "hi"}),
            None,
            "unsupported_parameter",
        ),
    ]
    with socket(house) as connection:
        for sent, stream_id, code in cases:
            connection.send(sent)
            error = frames_until_end(connection)[-1]
            assert (error["type"], error.get("stream_id"), error["error"]["code"]) == (
                "error",
                stream_id,
                code,
            )
        connection.send(create(stream_id="x"))
        assert frames_until_end(connection)[-1]["type"] == "chat.completion.done"


def test_streams_are_bounded(house: House) -> None:
    with socket(house) as connection:
        for number in range(9):
            connection.send(create("hang", stream_id=f"stream{number}"))
        error = json.loads(connection.recv(timeout=60))
        while error["type"] != "error":
            error = json.loads(connection.recv(timeout=60))
        assert (error["stream_id"], error["error"]["code"]) == ("stream8", "websocket_stream_limit_reached")
    eventually(lambda: house.num_running() == 0)


def test_a_closed_socket_frees_what_ran_on_it(house: House) -> None:
    key = house.new_key()
    with socket(house, key=key) as connection:
        connection.send(create("slow", max_tokens=500))
        connection.recv(timeout=60)
        eventually(lambda: house.num_running() == 1)
    eventually(lambda: house.num_running() == 0)
    (row,) = eventually(lambda: house.ask("usage", key))
    assert row["outcome"] == "cancelled"


def test_a_key_may_come_as_a_subprotocol(house: House) -> None:
    offered: Any = ["pilothouse", f"pilothouse-key.{house.key}"]
    with connect(url_of(house), subprotocols=offered) as connection:
        assert connection.subprotocol == "pilothouse"
        connection.send(create())
        assert frames_until_end(connection)[-1]["type"] == "chat.completion.done"


def test_strangers_are_refused_before_the_socket_opens(house: House) -> None:
    key = {"authorization": f"Bearer {house.key}"}
    attempts: list[tuple[str, dict[str, str]]] = [
        ("/v1/responses", {}),
        ("/v1/responses", {"authorization": "Bearer ph_nothing"}),
        (f"/v1/responses?api_key={house.key}", key),
        ("/v1/other", key),
    ]
    for path, headers in attempts:
        with (
            pytest.raises(InvalidStatus) as refused,
            connect(url_of(house, path), additional_headers=headers),
        ):
            pass
        assert refused.value.response.status_code == 403


def test_a_session_is_only_good_for_the_consoles_own_pages(house: House) -> None:
    cookie = {"cookie": house.ask("session")}
    own: Any = house.url
    with connect(url_of(house), additional_headers=cookie, origin=own) as connection:
        connection.send(create())
        assert frames_until_end(connection)[-1]["type"] == "chat.completion.done"
    other: Any
    for other in ("https://evil.example", "http://127.0.0.1:1", own.replace("http", "https"), "null", None):
        with (
            pytest.raises(InvalidStatus),
            connect(url_of(house), additional_headers=cookie, origin=other),
        ):
            pass


def test_who_has_signed_out_is_answered_no_more_on_a_socket_that_is_open(house: House) -> None:
    cookie, own = house.ask("session"), house.url
    arguments: Any = {"additional_headers": {"cookie": cookie}, "origin": own}
    with connect(url_of(house), **arguments) as connection:
        connection.send(create())
        assert frames_until_end(connection)[-1]["type"] == "chat.completion.done"
        house.ask("end_session", cookie)
        connection.send(create())
        assert frames_until_end(connection)[-1]["error"]["code"] == "not_signed_in"
        with pytest.raises(ConnectionClosed) as closed:
            connection.recv(timeout=60)
    assert closed.value.rcvd is not None and closed.value.rcvd.code == 4401


def test_the_last_frame_tells_the_engines_timings_and_an_error_when_to_try_again(house: House) -> None:
    with socket(house) as connection:
        connection.send(create("slow queue", max_tokens=4))
        timings = frames_until_end(connection)[-1]["timings"]
        assert 0.25 < timings["queue_seconds"] <= timings["first_token_seconds"] < timings["total_seconds"]
        connection.send(create("refuse"))
        assert frames_until_end(connection)[-1]["retry_after_ms"] == 2000
        connection.send(create(n=0))
        assert "retry_after_ms" not in frames_until_end(connection)[-1]


def test_a_frame_that_is_too_large_closes_the_socket(house: House) -> None:
    with socket(house) as connection, pytest.raises(ConnectionClosed) as closed:
        connection.send(" " * 3_000_000)
        connection.recv(timeout=60)
    assert closed.value.rcvd is None or closed.value.rcvd.code == 1009
