"""Every kind of request that is refused: the status, the code and the field at fault, in OpenAI's shape."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.flow.house import House
from tests.flow.requests import body, post

pytestmark = pytest.mark.server

TOO_LONG = "x" * 5000  # the stub takes one token a byte, and 4096 at most

BAD_CHATS: dict[str, tuple[dict[str, Any], int, str, str | None]] = {
    "unknown field": ({"colour": "blue"}, 400, "unknown_parameter", "colour"),
    "unsupported field": ({"prediction": {"type": "content"}}, 400, "unsupported_parameter", "prediction"),
    "wrong type": ({"temperature": "hot"}, 400, "invalid_type", "temperature"),
    "wrong type inside": (
        {"messages": [{"role": "user", "content": 5}]},
        400,
        "invalid_type",
        "messages[0].content",
    ),
    "missing field inside": (
        {"messages": [{"role": "user"}]},
        400,
        "missing_required_parameter",
        "messages[0].content",
    ),
    "missing messages": ({"messages": None}, 400, "missing_required_parameter", "messages"),
    "no messages": ({"messages": []}, 400, "invalid_value", "messages"),
    "empty prompt": ({"messages": [{"role": "user", "content": ""}]}, 400, "invalid_value", "messages"),
    "image": (
        {
            "messages": [
                {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}
            ]
        },
        400,
        "unsupported_parameter",
        "messages[0].content[0]",
    ),
    "unknown role": ({"messages": [{"role": "king", "content": "x"}]}, 400, "invalid_value", "messages[0]"),
    "too long prompt": (
        {"messages": [{"role": "user", "content": TOO_LONG}]},
        400,
        "context_length_exceeded",
        "messages",
    ),
    "temperature below zero": ({"temperature": -1}, 400, "invalid_value", "temperature"),
    "no choices": ({"n": 0}, 400, "invalid_value", "n"),
    "too many choices": ({"n": 9}, 400, "invalid_value", "n"),
    "no output": ({"max_tokens": 0}, 400, "invalid_value", "max_tokens"),
    "too many stops": ({"stop": [f"s{i}" for i in range(65)]}, 400, "invalid_value", "stop"),
    "usage without a stream": (
        {"stream_options": {"include_usage": True}},
        400,
        "unsupported_parameter",
        "stream_options",
    ),
    "top_logprobs alone": ({"top_logprobs": 2}, 400, "invalid_value", "top_logprobs"),
    "bias of no token": ({"logit_bias": {"cat": 1}}, 400, "invalid_value", "logit_bias"),
    "unknown model": ({"model": "gpt-4"}, 404, "model_not_found", "model"),
    "a number beyond all": ({"seed": 10**400}, 400, "invalid_value", "seed"),
}


@pytest.mark.parametrize("case", BAD_CHATS)
def test_a_bad_chat_request_names_its_fault(house: House, case: str) -> None:
    fields, status, code, param = BAD_CHATS[case]
    response = post(house, body(**fields))
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["param"]) == (status, code, param), error
    assert error["type"] == "invalid_request_error"
    assert error["message"]


@pytest.mark.parametrize(
    ("prompt", "code", "param"),
    [
        ("", "invalid_value", "prompt"),
        ([], "invalid_value", "prompt"),
        ([5, 100_000], "invalid_value", "prompt"),
        ([[5], [100_000]], "invalid_value", "prompt[1]"),
        (["a", 1], "invalid_type", "prompt[1]"),
    ],
)
def test_a_bad_prompt_is_named(house: House, prompt: Any, code: str, param: str) -> None:
    response = post(house, {"model": "stub", "prompt": prompt}, path="completions")
    assert response.status_code == 400
    assert response.json()["error"]["param"] == param
    assert response.json()["error"]["code"] == code


@pytest.mark.parametrize(
    ("content", "status", "code"),
    [
        (b"{", 400, "invalid_json"),
        (b"[]", 400, "invalid_json"),
        (b"\xff", 400, "invalid_json"),
        (b'{"model": "stub", "model": "stub"}', 400, "invalid_json"),
        (b'{"messages": ' + b"[" * 100 + b"]" * 100 + b"}", 400, "invalid_json"),
        (b'{"messages": ' + b"[" * 100_000, 400, "invalid_json"),
        (b'{"temperature": NaN}', 400, "invalid_json"),
        (b'{"model": "\\ud800"}', 400, "invalid_json"),
        (b" " * 10_000_000, 413, "request_too_large"),
    ],
)
def test_a_bad_body_is_refused(house: House, content: bytes, status: int, code: str) -> None:
    response = httpx.post(f"{house.url}/v1/chat/completions", content=content, headers=house.headers())
    assert (response.status_code, response.json()["error"]["code"]) == (status, code)


@pytest.mark.parametrize(
    "authorization", [None, "Bearer", "Basic abc", "Bearer ph_abc", "Bearer ph_aaaaaaaaaaaa_bbb"]
)
def test_no_key_no_answer(house: House, authorization: str | None) -> None:
    headers = {} if authorization is None else {"authorization": authorization}
    for path in ("models", "models/stub"):
        response = httpx.get(f"{house.url}/v1/{path}", headers=headers)
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_api_key")
    response = httpx.post(f"{house.url}/v1/chat/completions", json=body(), headers=headers)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"


def test_a_key_in_the_url_is_refused_even_when_it_is_valid(house: House) -> None:
    response = httpx.get(f"{house.url}/v1/models?api_key={house.key}", headers=house.headers())
    assert (response.status_code, response.json()["error"]["code"]) == (400, "key_in_url")
    assert house.key not in response.text


def test_unknown_addresses_and_methods_answer_in_the_same_shape(house: House) -> None:
    for path in ("/v1", "/v1/", "/v1/nothing", "/v1/chat"):
        missing = httpx.get(house.url + path, headers=house.headers(), follow_redirects=True)
        assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found"), path
    wrong = httpx.get(f"{house.url}/v1/chat/completions", headers=house.headers())
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json()["error"]["code"] == "method_not_allowed"


def test_a_foreign_host_name_is_refused(house: House) -> None:
    response = httpx.get(f"{house.url}/v1/models", headers={**house.headers(), "host": "evil.example"})
    assert response.status_code == 400


def test_every_response_carries_a_request_id(house: House) -> None:
    mine = httpx.get(f"{house.url}/v1/models", headers={**house.headers(), "x-request-id": "my-own.1"})
    assert mine.headers["x-request-id"] == "my-own.1"
    assert mine.headers["openai-processing-ms"].isdigit()
    for path in ("/v1/nothing", "/health", "/admin/login/"):
        other = httpx.get(house.url + path, headers={"x-request-id": "not valid!"})
        assert other.headers["x-request-id"].startswith("req_")


def test_only_listed_origins_are_shared_with(house: House) -> None:
    asks = {"access-control-request-method": "POST"}
    url = f"{house.url}/v1/chat/completions"
    listed = httpx.options(url, headers={"origin": "https://app.example", **asks})
    assert (listed.status_code, listed.headers["access-control-allow-origin"]) == (204, "https://app.example")
    stranger = httpx.options(url, headers={"origin": "https://evil.example", **asks})
    assert stranger.status_code == 401
    assert "access-control-allow-origin" not in stranger.headers


@pytest.mark.parametrize("names", ["authorization,content-type,x-stainless-os", "x-my-own-header"])
def test_a_listed_origin_may_send_the_headers_that_it_asks_for(house: House, names: str) -> None:
    asks = {"access-control-request-method": "POST", "access-control-request-headers": names}
    url = f"{house.url}/v1/chat/completions"
    listed = httpx.options(url, headers={"origin": "https://app.example", **asks})
    assert listed.headers["access-control-allow-headers"] == names
    strange = {**asks, "access-control-request-headers": "a(b), c"}
    listed = httpx.options(url, headers={"origin": "https://app.example", **strange})
    assert "a(b)" not in listed.headers["access-control-allow-headers"]
    stranger = httpx.options(url, headers={"origin": "https://evil.example", **asks})
    assert "access-control-allow-headers" not in stranger.headers


@pytest.mark.parametrize("path", ["/chat/completions", "/v1/v1/chat/completions", "/v1/chat/completions/"])
def test_a_wrong_base_url_is_told_the_right_one(house: House, path: str) -> None:
    response = httpx.post(f"{house.url}{path}", json=body(), headers=house.headers())
    assert response.status_code == 404 and response.headers["content-type"] == "application/json"
    error = response.json()["error"]
    assert error["code"] == "not_found" and "/v1/chat/completions?" in error["message"]


def test_models_without_v1_are_hinted_at_for_programs_and_a_page_for_people(house: House) -> None:
    hinted = httpx.get(f"{house.url}/models", headers=house.headers())
    assert hinted.status_code == 404 and "/v1/models?" in hinted.json()["error"]["message"]
    assert httpx.get(f"{house.url}/models").headers["content-type"] != "application/json"


def test_head_is_answered_where_get_is(house: House) -> None:
    response = httpx.head(f"{house.url}/v1/models", headers=house.headers())
    assert response.status_code == 200 and response.content == b""
    refused = httpx.head(f"{house.url}/v1/chat/completions", headers=house.headers())
    assert (refused.status_code, refused.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("name", ["x-api-key", "api-key"])
def test_other_headers_for_keys_work(house: House, name: str) -> None:
    key = house.headers()["authorization"].removeprefix("Bearer ")
    assert httpx.get(f"{house.url}/v1/models", headers={name: key}).status_code == 200
    assert httpx.get(f"{house.url}/v1/models", headers={name: key[:-1] + "?"}).status_code == 401
    both = {name: key, "Authorization": "Bearer ph_wrong"}
    assert httpx.get(f"{house.url}/v1/models", headers=both).status_code == 401  # one header decides


def test_of_several_prompts_the_one_at_fault_is_named(house: House) -> None:
    payload = {"model": "stub", "prompt": ["a", TOO_LONG]}
    error = post(house, payload, path="completions").json()["error"]
    assert (error["code"], error["param"]) == ("context_length_exceeded", "prompt[1]")


def test_near_the_end_of_the_context_nobody_is_blamed_for_a_field_not_sent(house: House) -> None:
    nearly_full = "x" * 4090
    answer = post(house, {"model": "stub", "prompt": nearly_full}, path="completions")
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["completion_tokens"] == 6
    for name in ("max_tokens", "max_completion_tokens"):
        messages = [{"role": "user", "content": nearly_full}]
        payload = {"model": "stub", "messages": messages, name: 16}
        error = post(house, payload).json()["error"]
        assert (error["code"], error["param"]) == ("context_length_exceeded", name)
