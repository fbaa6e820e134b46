"""What requests leave in the ledger: the same by each door, what a disconnect used, never above a budget."""

from __future__ import annotations

import json
from itertools import islice

import pytest

from tests.flow.house import House, eventually
from tests.flow.requests import body, create, frames_until_end, post, socket, streaming, text_of

pytestmark = pytest.mark.server

OWN = {
    "id",
    "request_id",
    "transport",
    "queue_seconds",
    "ttft_seconds",
    "total_seconds",
    "spans",
    "created_at",
    "settled_at",
}


def test_every_door_leaves_the_same_row(house: House) -> None:
    key = house.new_key()
    plain = post(house, body(user="ada"), key=key)
    with streaming(house, body(user="ada"), key=key) as events:
        assert list(events)[-1] == "[DONE]"
    with socket(house, key=key) as connection:
        connection.send(create(user="ada"))
        frames = frames_until_end(connection)
    assert text_of(frames) == plain.json()["choices"][0]["message"]["content"]
    assert frames[-1]["usage"] == plain.json()["usage"]
    rows = house.ask("usage", key)
    assert [row["transport"] for row in rows] == ["rest", "sse", "websocket"]
    shared = [{name: value for name, value in row.items() if name not in OWN} for row in rows]
    assert shared[0] == shared[1] == shared[2]
    assert (shared[0]["outcome"], shared[0]["prompt_tokens"], shared[0]["completion_tokens"]) == (
        "finished",
        5,
        8,
    )
    assert shared[0]["end_user"] == "ada"
    eventually(lambda: house.ask("tickets") == 0)


def test_the_row_is_there_before_the_last_chunk(house: House) -> None:
    key = house.new_key()
    with streaming(house, body(), key=key) as events:
        for event in events:
            assert isinstance(event, dict)
            if event["choices"][0]["finish_reason"]:
                assert len(house.ask("usage", key)) == 1
                break


@pytest.mark.parametrize("pace", ["slow", "hang-after-5"])
def test_who_leaves_at_token_five_pays_for_what_was_made_until_then(house: House, pace: str) -> None:
    key = house.new_key()
    with streaming(house, body(pace, max_tokens=500), key=key) as events:
        assert len(list(islice(events, 6))) == 6  # the role and five tokens
        eventually(lambda: house.num_running() == 1)
    eventually(lambda: house.num_running() == 0)
    (row,) = eventually(lambda: house.ask("usage", key))
    assert row["outcome"] == "cancelled"
    assert 5 <= row["completion_tokens"] <= (5 if "hang" in pace else 250)  # half of what it asked for
    eventually(lambda: house.ask("tickets") == 0)


def test_who_leaves_before_the_first_token_frees_the_engine(house: House) -> None:
    key = house.new_key()
    with streaming(house, body("hang"), key=key) as events:
        assert isinstance(next(events), dict)  # the role, sent when nothing else came for a second
    eventually(lambda: house.num_running() == 0)
    (row,) = eventually(lambda: house.ask("usage", key))
    assert (row["outcome"], row["completion_tokens"]) == ("cancelled", 0)


def test_a_failure_is_in_the_ledger_with_its_code(house: House) -> None:
    key = house.new_key()
    assert post(house, body("fail-after-3"), key=key).status_code == 500
    assert post(house, body("refuse"), key=key).status_code == 503
    failed, refused = house.ask("usage", key)
    assert (failed["outcome"], failed["error_code"], failed["completion_tokens"]) == (
        "failed",
        "engine_error",
        3,
    )
    assert (refused["outcome"], refused["error_code"], refused["prompt_tokens"]) == (
        "failed",
        "engine_overloaded",
        0,
    )


@pytest.mark.parametrize("n", [1, 3])
def test_a_budget_ends_a_stream_at_exactly_the_cap(house: House, n: int) -> None:
    key = house.new_key()
    house.ask("budget", key, 700)
    with streaming(house, body("four", n=n, max_tokens=2000), key=key) as events:
        ends = [one for one in events if isinstance(one, dict) and one["choices"][0]["finish_reason"]]
    assert len(ends) == n
    assert {(one["choices"][0]["finish_reason"], one["choices"][0]["stop_reason"]) for one in ends} == {
        ("length", "budget")
    }
    (row,) = house.ask("usage", key)
    assert row["prompt_tokens"] + row["completion_tokens"] == 700
    assert row["finish_reason"] == "budget"
    refused = post(house, body("four"), key=key)
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")


def test_a_revoked_key_is_refused_with_its_next_request(house: House) -> None:
    key = house.new_key()
    with socket(house, key=key) as connection:
        connection.send(create())
        assert frames_until_end(connection)[-1]["type"] == "chat.completion.done"
        house.ask("revoke", key)
        assert post(house, body(), key=key).status_code == 401
        connection.send(create())
        error = json.loads(connection.recv(timeout=60))
        assert (error["type"], error["status"]) == ("error", 401)
