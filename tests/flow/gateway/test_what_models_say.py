"""What a revision's own files say reaches callers: its sampling where they are silent, and why it fails."""

from __future__ import annotations

import httpx
import pytest

from tests.flow.house import House
from tests.flow.requests import body, create, frames_until_end, post, socket, text_of

pytestmark = pytest.mark.server

OWN = {"temperature": 0.5, "top_k": 7, "repetition_penalty": 1.25}


@pytest.fixture(scope="module")
def own(house: House) -> House:
    """`own` leads to a revision with settings of its own, `stub` to one without."""
    house.ask("make", "stub-own", {"sampling": OWN})
    house.ask("share", "own", {"stub-own": 100})
    return house


def sampled(house: House, model: str, **fields: object) -> str:
    answer = post(house, body("sampled", model=model, **fields) | {"max_tokens": 64})
    assert answer.is_success, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def test_where_a_request_is_silent_the_models_own_sampling_holds(own: House) -> None:
    assert sampled(own, "own") == "0.5 1 7 1.25"
    assert sampled(own, "own", temperature=None, top_k=None) == "0.5 1 7 1.25"  # null is silence


def test_what_a_request_says_holds_even_where_it_is_openais_default(own: House) -> None:
    assert sampled(own, "own", temperature=1.0, top_k=0, repetition_penalty=1.0) == "1 1 0 1"
    assert sampled(own, "own", top_p=0.25) == "0.5 0.25 7 1.25"


def test_a_model_without_settings_of_its_own_gets_openais(own: House) -> None:
    assert sampled(own, "stub") == "1 1 0 1"


def test_every_door_takes_the_models_own_sampling(own: House) -> None:
    payload = {"model": "own", "prompt": "sampled", "max_tokens": 64}
    assert post(own, payload, path="completions").json()["choices"][0]["text"] == "0.5 1 7 1.25"
    with socket(own) as connection:
        connection.send(create("sampled", model="own", max_tokens=64))
        assert text_of(frames_until_end(connection)) == "0.5 1 7 1.25"


@pytest.mark.parametrize(
    ("code", "told", "is_listed"),
    [
        ("kind_not_served", "of a kind that is not served", False),
        ("unsafe_model", "its files are refused", False),
        ("too_little_memory", "too little memory", True),
        ("model_cannot_load", "do not go together", True),
    ],
)
def test_a_caller_is_told_the_class_of_a_failure_and_no_path(
    code: str, told: str, is_listed: bool, house: House
) -> None:
    name = code.replace("_", "-")
    house.ask("make", f"bad-{name}", {"error": "/secret/folder/config.json is wrong", "code": code})
    house.ask("share", name, {f"bad-{name}": 100})
    answer = post(house, body(model=name))
    assert answer.status_code == 503 and told in answer.json()["error"]["message"]
    assert "/secret" not in answer.text
    listed = httpx.get(f"{house.url}/v1/models", headers=house.headers()).json()["data"]
    assert (name in {one["id"] for one in listed}) is is_listed
