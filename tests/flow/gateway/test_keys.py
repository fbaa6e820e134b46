"""What a key is limited to holds at every door: endpoints, models, rates, and its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest

from console.endpoint_registry import endpoints
from tests.flow.house import House, eventually
from tests.flow.requests import body, create, frames_until_end, post, socket, streaming

pytestmark = pytest.mark.server

SCOPES = ["chat", "completions", "models"]


def chat(house: House, key: str) -> tuple[int, Any]:
    return answer_of(post(house, body(), key=key))


def completions(house: House, key: str) -> tuple[int, Any]:
    return answer_of(
        post(house, {"model": "stub", "prompt": "Hello", "max_tokens": 2}, path="completions", key=key)
    )


def models(house: House, key: str) -> tuple[int, Any]:
    return answer_of(httpx.get(f"{house.url}/v1/models", headers=house.headers(key)))


def model(house: House, key: str) -> tuple[int, Any]:
    return answer_of(httpx.get(f"{house.url}/v1/models/stub", headers=house.headers(key)))


def websocket(house: House, key: str) -> tuple[int, Any]:
    with socket(house, key=key) as connection:
        connection.send(create())
        last = frames_until_end(connection)[-1]
    return (200, last) if last["type"] == "chat.completion.done" else (last["status"], last)


def answer_of(response: httpx.Response) -> tuple[int, Any]:
    return response.status_code, response.json()


# Each door that a key opens, and the scope that it needs.
DOORS = {
    "gateway:chat_completions": (chat, "chat"),
    "gateway:completions": (completions, "completions"),
    "gateway:models": (models, "models"),
    "gateway:model": (model, "models"),
    "/v1/responses": (websocket, "chat"),
}


def test_every_door_for_keys_stands_in_the_table_above() -> None:
    routes = {f"gateway:{route.name}" for one in endpoints() for route in one.routes}
    assert routes | {one.socket_path for one in endpoints() if one.socket_path} == DOORS.keys()
    assert {one.scope.name for one in endpoints()} == set(SCOPES)


@pytest.mark.parametrize("scope", SCOPES)
def test_a_key_with_one_scope_opens_its_doors_and_no_other(house: House, scope: str) -> None:
    key = house.new_key(f"only {scope}", scopes=[scope])
    for name, (ask, needed) in DOORS.items():
        status, answer = ask(house, key)
        if needed == scope:
            assert status == 200, name
        else:
            assert (status, answer["error"]["code"]) == (403, "missing_scope"), name
            assert f"'{needed}'" in answer["error"]["message"]


def test_a_key_without_scopes_named_opens_every_door(house: House) -> None:
    key = house.new_key("every door")
    assert {ask(house, key)[0] for ask, _ in DOORS.values()} == {200}


def test_a_model_that_a_key_may_not_ask_for_does_not_exist_for_it(house: House) -> None:
    blind, seeing = house.new_key("blind", models=["another"]), house.new_key("seeing", models=["stub"])
    missing = body(model="missing")
    answer = post(house, missing, key=blind).json()
    for ask, _ in DOORS.values():
        got, refused = ask(house, blind)
        if ask is models:
            assert (got, refused["data"]) == (200, [])
        else:
            assert (got, refused["error"]["code"]) == (404, "model_not_found")
    assert {ask(house, seeing)[0] for ask, _ in DOORS.values()} == {200}
    told = chat(house, blind)[1]["error"]["message"].replace("stub", "missing")
    assert told == answer["error"]["message"]  # nothing tells a hidden model from one that is not there


def test_answers_tell_the_rates_and_a_refusal_when_to_come_again(house: House) -> None:
    key = house.new_key("hasty")
    house.ask("limit", key, {"requests_per_minute": 2, "tokens_per_minute": 60_000})
    first = post(house, body(), key=key)
    second = post(house, body(stream=True), key=key)
    third = post(house, body(), key=key)
    assert [one.status_code for one in (first, second, third)] == [200, 200, 429]
    for answer, left in ((first, "1"), (second, "0"), (third, "0")):
        assert answer.headers["x-ratelimit-limit-requests"] == "2"
        assert answer.headers["x-ratelimit-remaining-requests"] == left
        assert answer.headers["x-ratelimit-limit-tokens"] == "60000"
    assert third.json()["error"]["code"] == "rate_limit_exceeded"
    milliseconds = int(third.headers["retry-after-ms"])
    assert 10_000 < milliseconds <= 30_000  # since the first
    assert int(third.headers["retry-after"]) * 1000 >= milliseconds
    assert "x-ratelimit-limit-requests" not in post(house, body()).headers


def press(house: House, path: str) -> httpx.Response:
    """Post to a page of the console, as somebody who is signed in."""
    session = house.ask("session")
    token = httpx.get(f"{house.url}/", headers={"cookie": session}).cookies["csrftoken"]
    headers = {"cookie": f"{session}; csrftoken={token}", "x-csrftoken": token}
    return httpx.post(f"{house.url}{path}", headers=headers)


def test_revoking_a_key_ends_its_streams_within_two_seconds_and_nobody_elses(house: House) -> None:
    key, other = house.new_key("to be revoked"), house.new_key("bystander")
    slow = body("slow", max_tokens=400)  # 20 seconds of it
    last: dict[str, Any] = {}

    def read(name: str, key: str) -> None:
        with streaming(house, slow if name == "mine" else body("slow", max_tokens=60), key=key) as events:
            for event in events:
                last[name] = event

    readers = [threading.Thread(target=read, args=pair) for pair in (("mine", key), ("other", other))]
    for reader in readers:
        reader.start()
    eventually(lambda: {"mine", "other"} <= last.keys())
    assert press(house, f"/keys/{key.split('_')[1]}/revoke").status_code == 302
    for reader in readers:
        reader.join(60)
    assert last["mine"]["error"]["code"] == "request_cancelled"
    assert last["other"] == "[DONE]"
    assert chat(house, key)[0] == 401
    row = eventually(lambda: house.ask("usage", key))[0]
    assert row["outcome"] == "cancelled" and row["completion_tokens"] < 400
    revoked = datetime.fromisoformat(house.ask("done_at", "key.revoked"))
    assert datetime.fromisoformat(row["settled_at"]) - revoked < timedelta(seconds=2)


@pytest.fixture(scope="module")
def own_house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("own")) as house:
        yield house


def test_a_flood_of_refusals_is_a_few_rows_with_right_counts_once_the_server_stops(own_house: House) -> None:
    house, mistyped = own_house, "ph_000000000000_wrong"
    unscoped, hasty = house.new_key("unscoped", scopes=["models"]), house.new_key("hasty")
    house.ask("limit", hasty, {"requests_per_minute": 1})
    with httpx.Client(base_url=f"{house.url}/v1", timeout=30) as client:

        def ask(key: str, times: int) -> set[int]:
            headers = house.headers(key)
            return {
                client.post("/chat/completions", json=body(), headers=headers).status_code
                for _ in range(times)
            }

        assert ask(mistyped, 300) == {401}
        assert ask(unscoped, 20) == {403}
        assert ask(hasty, 11) == {200, 429}
    with pytest.raises(Exception, match="403"), socket(house, key=mistyped):
        pass
    house.restart()
    totals: dict[str, dict[str, int]] = {}
    rows = house.ask("refusals")
    for target, ip, counts in rows:
        assert ip == "127.0.0.1"
        for reason, number in counts.items():
            kept = totals.setdefault(target, {})
            kept[reason] = kept.get(reason, 0) + number
    assert totals == {
        "key:unknown": {"401 invalid_api_key": 301},
        f"key:{unscoped.split('_')[1]}": {"403 missing_scope": 20},
        f"key:{hasty.split('_')[1]}": {"429 rate_limit_exceeded": 10},
    }
    assert len(rows) <= 6


def test_a_prompt_that_is_refused_costs_a_request_of_the_rate(house: House) -> None:
    """Tokenizing it has cost work: a key of one a minute may not repeat it at once."""
    key = house.new_key("one a minute")
    house.ask("limit", key, {"requests_per_minute": 1})
    too_long = body("x" * 5000)
    first, second = post(house, too_long, key=key), post(house, too_long, key=key)
    assert (first.status_code, first.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert (second.status_code, second.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(second.headers["retry-after"]) >= 1
    assert house.ask("usage", key) == []
