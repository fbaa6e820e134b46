"""Chat over the real server: plain and streamed, with usage, choices, stops and errors in mid-stream."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.flow.house import House
from tests.flow.requests import body, create, events, post, socket

pytestmark = pytest.mark.server


def test_a_stream_adds_up_to_the_plain_answer(house: House) -> None:
    plain = post(house, body())
    streamed = post(house, body(stream=True))
    assert plain.status_code == streamed.status_code == 200, plain.text
    chunks = events(streamed)
    assert chunks[0]["choices"][0]["delta"] == {"role": "assistant", "content": "", "refusal": None}
    assert chunks[-1] == "[DONE]"
    text = "".join(one["choices"][0]["delta"].get("content", "") for one in chunks[:-1])
    assert text == plain.json()["choices"][0]["message"]["content"] != ""
    assert (
        chunks[-2]["choices"][0]["finish_reason"] == "length" == plain.json()["choices"][0]["finish_reason"]
    )


def test_a_stream_may_not_be_cached_or_buffered(house: House) -> None:
    streamed = post(house, body(stream=True))
    assert streamed.headers["cache-control"] == "no-cache, no-transform"
    assert streamed.headers["x-accel-buffering"] == "no"
    assert streamed.headers["content-type"].startswith("text/event-stream")


def test_the_last_chunk_has_usage_when_it_was_asked_for(house: House) -> None:
    chunks = events(post(house, body(stream=True, stream_options={"include_usage": True})))
    assert chunks[-2]["choices"] == []
    assert chunks[-2]["usage"] == post(house, body()).json()["usage"]
    assert all(one["usage"] is None for one in chunks[:-2])


def test_several_choices_count_their_prompt_once(house: House) -> None:
    answer = post(house, body(n=3)).json()
    assert [one["index"] for one in answer["choices"]] == [0, 1, 2]
    assert answer["usage"] == {
        "prompt_tokens": 5,
        "completion_tokens": 24,
        "total_tokens": 29,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def test_a_stop_string_ends_the_answer_and_is_named(house: House) -> None:
    words = post(house, body()).json()["choices"][0]["message"]["content"].split()
    choice = post(house, body(stop=words[3])).json()["choices"][0]
    assert choice["message"]["content"].split() == words[:3]
    assert (choice["finish_reason"], choice["stop_reason"]) == ("stop", words[3])


def test_logprobs_come_with_their_tokens(house: House) -> None:
    choice = post(house, body(logprobs=True, top_logprobs=2)).json()["choices"][0]
    assert "".join(one["token"] for one in choice["logprobs"]["content"]) == choice["message"]["content"]
    assert [len(one["top_logprobs"]) for one in choice["logprobs"]["content"]] == [2] * 8


def test_a_failure_before_the_first_token_has_its_status(house: House) -> None:
    for stream in (False, True):
        refused = post(house, body("refuse", stream=stream))
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "engine_overloaded")
        assert refused.headers["retry-after"] == "2"


def test_a_failure_in_mid_stream_is_an_error_event_and_the_end(house: House) -> None:
    chunks = events(post(house, body("fail-after-3", stream=True)))
    assert chunks[-1]["error"]["code"] == "engine_error"
    assert sum(bool(one.get("choices")) for one in chunks) == 1 + 3
    assert post(house, body("fail-after-3")).status_code == 500


def test_completions_take_several_prompts_and_echo_them(house: House) -> None:
    payload = {"model": "stub", "prompt": ["one", "two"], "n": 2, "max_tokens": 3, "echo": True}
    answer = post(house, payload, path="completions").json()
    assert [one["text"][:3] for one in answer["choices"]] == ["one", "one", "two", "two"]
    assert answer["usage"]["prompt_tokens"] == 6
    assert answer["usage"]["completion_tokens"] == 12
    streamed = events(post(house, {**payload, "stream": True}, path="completions"))
    texts = ["", "", "", ""]
    for chunk in streamed[:-1]:
        texts[chunk["choices"][0]["index"]] += chunk["choices"][0]["text"]
    assert texts == [one["text"] for one in answer["choices"]]


def test_clients_that_read_lines_get_whole_events_whatever_the_text_is(house: House) -> None:
    prompt = "a\u2028b\u2029c\u0085d\x0be\x1cf\r\ng"
    payload = {"model": "stub", "prompt": prompt, "echo": True, "stream": True, "max_tokens": 2}
    answer = post(house, payload, path="completions")
    lines = [line for line in answer.iter_lines() if line]
    assert lines == answer.text.rstrip().split("\n\n")
    assert "".join(one["choices"][0]["text"] for one in events(answer)[:-1]).startswith(prompt)


def test_errors_keep_to_one_line_on_every_door(house: House) -> None:
    strange = "no\u2028such\u0085model"
    plain = post(house, {**body(), "model": strange})
    assert len(plain.text.splitlines()) == 1 and strange in plain.json()["error"]["message"]
    with socket(house) as connection:
        connection.send(create(model=strange))
        frame = connection.recv(timeout=60)
    assert isinstance(frame, str) and len(frame.splitlines()) == 1
    assert strange in json.loads(frame)["error"]["message"]


def test_completions_take_token_ids(house: House) -> None:
    answer = post(house, {"model": "stub", "prompt": [104, 105], "logprobs": 1}, path="completions").json()
    assert answer["usage"]["prompt_tokens"] == 2
    assert len(answer["choices"][0]["logprobs"]["tokens"]) == 16
    assert answer["choices"][0]["logprobs"]["text_offset"][:2] == [0, 5]


def test_models_are_listed_and_found(house: House) -> None:
    key = house.new_key("only stub", models=["stub"])  # other tests let this server serve more
    listed = httpx.get(f"{house.url}/v1/models", headers=house.headers(key)).json()
    assert [one["id"] for one in listed["data"]] == ["stub"]
    found = httpx.get(f"{house.url}/v1/models/stub", headers=house.headers(key)).json()
    assert found == listed["data"][0]
    assert found["batching"] is True
    missing = httpx.get(f"{house.url}/v1/models/none", headers=house.headers(key))
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "model_not_found")
