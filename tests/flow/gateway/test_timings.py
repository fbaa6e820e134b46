"""The time that the ledger tells of is the time that the client waited, and all of it is accounted for."""

from __future__ import annotations

import time
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.flow.house import House
from tests.flow.requests import body, create, frames_until_end, post, socket, streaming

pytestmark = pytest.mark.server

NUM_TRIES = 12  # a busy machine may keep the client itself waiting


def rows(house: House, key: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = house.ask("usage", key)
    return found


def spans_of(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Those with a length: without gaps, from the arrival to the end, and nothing else."""
    spans = [span for span in row["spans"] if span["name"] != "answer"]
    assert spans[0]["start"] == 0.0
    assert all(before["end"] == after["start"] for before, after in pairwise(spans))
    assert sum(span["end"] - span["start"] for span in spans) == pytest.approx(row["total_seconds"])
    return spans


def test_the_spans_sum_to_what_the_client_waited(house: House) -> None:
    key, off = house.new_key(), list[float]()
    with httpx.Client(base_url=f"{house.url}/v1/", headers=house.headers(key), timeout=30) as client:
        client.get("models")  # connected
        for _ in range(NUM_TRIES):
            began = time.monotonic()
            client.post("chat/completions", json=body("slow", max_tokens=50)).raise_for_status()
            wall = time.monotonic() - began
            spans_of(row := rows(house, key)[-1])
            off.append(abs(row["total_seconds"] - wall) / wall)
            if off[-1] <= 0.01:
                return
    raise AssertionError(off)


def test_a_wait_in_the_queue_is_a_span_with_its_reason(house: House) -> None:
    key = house.new_key()
    post(house, body("queue"), key=key)
    (row,) = rows(house, key)
    spans = {span["name"]: span for span in spans_of(row)}
    assert {"parse", "choose", "prepare", "reserve", "queue", "prefill", "decode", "settle"} <= set(spans)
    queue = spans["queue"]
    assert queue["reason"] == "blocks"
    assert 0.3 <= queue["end"] - queue["start"] < row["total_seconds"]
    assert spans["decode"]["tokens"] == 7


def test_every_door_tells_its_timings(house: House) -> None:
    key = house.new_key()
    post(house, body(), key=key)
    with streaming(house, body(), key=key) as events:
        list(events)
    with socket(house, key=key) as connection:
        connection.send(create())
        frames_until_end(connection)
    for row in rows(house, key):
        names = [span["name"] for span in spans_of(row)]
        assert names[:4] == ["parse", "choose", "prepare", "reserve"] and names[-1] == "settle"
        assert ("answer" in [span["name"] for span in row["spans"]]) is (row["transport"] != "rest")


def test_of_several_choices_the_one_that_ended_last_is_told(house: House) -> None:
    key = house.new_key()
    post(house, body("slow", n=3), key=key)
    (row,) = rows(house, key)
    names = [span["name"] for span in spans_of(row)]
    assert names.count("decode") == 1 and row["num_choices"] == 3


@pytest.mark.parametrize("content", ["refuse", "fail-after-3"])
def test_a_request_that_fails_has_its_time_told_as_well(house: House, content: str) -> None:
    key = house.new_key()
    post(house, body(content), key=key)
    (row,) = rows(house, key)
    assert row["outcome"] == "failed"
    assert spans_of(row)[-1]["name"] == "settle"
