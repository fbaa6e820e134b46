"""An operator cancels what runs: the client is told, the engine is free, ledger and audit log know."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator

import httpx
import pytest

from tests.flow.house import House, eventually
from tests.flow.requests import body, create, frames_until_end, post, socket, streaming

pytestmark = pytest.mark.server

CODE = "request_cancelled"


@pytest.fixture
def operator(house: House) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=house.url, follow_redirects=True) as client:
        client.cookies.set(*house.ask("session").split("=", 1))
        client.get("/live/")  # brings the token that forms are sent with
        eventually(lambda: not in_flight(client))  # what the test before left
        yield client


def in_flight(operator: httpx.Client) -> list[str]:
    return re.findall(r'title="(chatcmpl-\w+)"', operator.get("/live/now").text)


def shown(operator: httpx.Client, state: str) -> str:
    """The page, if it shows a request in that state."""
    page = operator.get("/live/now").text
    return page if state in page else ""


def cancel(operator: httpx.Client, request_id: str) -> str:
    page = operator.post(
        f"/live/{request_id}/cancel", data={"csrfmiddlewaretoken": operator.cookies["csrftoken"]}
    )
    assert page.status_code == 200
    return page.text


def test_a_stream_ends_with_the_error(house: House, operator: httpx.Client) -> None:
    key = house.new_key("cancelled-program")
    with streaming(house, body("slow", max_tokens=1000), key=key) as events:
        next(events)
        page = eventually(lambda: shown(operator, "decoding"))
        (request_id,) = in_flight(operator)
        assert "cancelled-program" in page
        assert "Cancelled: the client gets error 403" in cancel(operator, request_id)
        *_, last = events
    assert isinstance(last, dict) and last["error"]["code"] == CODE
    assert "by an operator" in last["error"]["message"]
    (row,) = house.ask("usage", key)
    assert (row["outcome"], row["finish_reason"]) == ("cancelled", "cancelled")
    assert row["completion_tokens"] >= 1
    eventually(lambda: house.num_running() == 0)
    eventually(lambda: house.ask("tickets") == 0)
    eventually(lambda: not in_flight(operator))
    assert "This request has ended already." in cancel(operator, request_id)
    assert request_id in operator.get("/requests/", params={"outcome": "cancelled"}).text
    entries = operator.get("/admin/audit/entry/", params={"q": request_id}).text
    assert "request.cancelled" in entries


def test_a_socket_gets_the_error_and_lives(house: House, operator: httpx.Client) -> None:
    with socket(house, key=house.new_key()) as connection:
        connection.send(create("slow", max_tokens=1000))
        (request_id,) = eventually(lambda: in_flight(operator))
        cancel(operator, request_id)
        error = frames_until_end(connection)[-1]
        assert (error["type"], error["status"], error["error"]["code"]) == ("error", 403, CODE)
        connection.send(create())
        assert frames_until_end(connection)[-1]["type"] == "chat.completion.done"


def test_who_waits_for_a_whole_answer_gets_its_status(house: House, operator: httpx.Client) -> None:
    answers: list[httpx.Response] = []
    payload, key = body("hang", n=2), house.new_key()
    asking = threading.Thread(target=lambda: answers.append(post(house, payload, key=key)))
    asking.start()
    (request_id,) = eventually(lambda: in_flight(operator))
    cancel(operator, request_id)
    asking.join(60)
    (answer,) = answers
    assert (answer.status_code, answer.json()["error"]["code"]) == (403, CODE)
    eventually(lambda: house.num_running() == 0)


def test_a_request_in_the_queue_is_shown_waiting(house: House, operator: httpx.Client) -> None:
    key = house.new_key()
    with streaming(house, body("queue slow", max_tokens=1000), key=key) as events:
        assert isinstance(next(events), dict)  # the queue's 300 ms are over
        assert "KV pool of" in eventually(lambda: shown(operator, "decoding"))


def test_one_stream_of_many_is_cancelled_alone(house: House, operator: httpx.Client) -> None:
    key = house.new_key()
    with (
        streaming(house, body("slow", max_tokens=80), key=key) as kept,
        streaming(house, body("slow first", max_tokens=1000), key=key) as ended,
    ):
        next(kept)
        next(ended)
        oldest, newest = in_flight(operator)
        cancel(operator, newest)
        assert isinstance(last := list(ended)[-1], dict) and last["error"]["code"] == CODE
        assert list(kept)[-1] == "[DONE]"
    assert {row["outcome"] for row in house.ask("usage", key)} == {"cancelled", "finished"}
    assert oldest != newest
