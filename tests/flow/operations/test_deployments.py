"""Revisions come into memory and leave it while requests come: idle, woken, forced, failed, killed."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

import httpx
import pytest

from tests.flow.house import House, eventually
from tests.flow.requests import body, post, streaming

pytestmark = pytest.mark.server

LOADED, SLEEPING = True, False


@pytest.fixture
def wake_seconds() -> str:
    return "60"


@pytest.fixture
def house(tmp_path: Path, wake_seconds: str) -> Iterator[House]:
    """Its budget holds two of the stub's revisions of 1 MB, and no third."""
    settings = {"MEMORY_BUDGET": "2500KB", "MEMORY_SHARE": "0.4", "WAKE_SECONDS": wake_seconds}
    with House(tmp_path / "house", **settings) as house:
        yield house


def state(house: House, revision: str) -> str:
    return str(house.ask("deployment", revision)["state"])


def is_loaded(house: House, model: str = "stub") -> bool:
    listed = httpx.get(f"{house.url}/v1/models", headers=house.headers()).json()["data"]
    return bool(next(one["is_loaded"] for one in listed if one["id"] == model))


def said(answer: httpx.Response) -> str:
    assert answer.is_success, answer.text
    return str(answer.json()["choices"][0]["message"]["content"])


def sleep(house: House, revision: str = "stub-1") -> None:
    """Let it fall asleep for want of requests, and stay awake next time."""
    house.ask("deploy", "set_keeping", revision, {"is_pinned": False, "idle_seconds": 1})
    eventually(lambda: state(house, revision) == "absent")
    house.ask("deploy", "set_keeping", revision, {"is_pinned": False, "idle_seconds": None})


def test_an_idle_model_is_unloaded_and_many_requests_wake_it_once(house: House) -> None:
    key = house.new_key()
    sleep(house)
    assert is_loaded(house) is SLEEPING
    assert httpx.get(f"{house.url}/ready").status_code == 200  # or no balancer would ever wake it
    assert house.ask("audited", "stub-1")[-2:] == [
        ["reconciler", "deployment.unload"],
        ["test", "deployment.keep"],
    ]
    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(lambda _: post(house, body(), key=key), range(10)))
    assert [answer.status_code for answer in answers] == [200] * 10
    assert is_loaded(house) is LOADED
    assert house.ask("audited", "stub-1")[-1] == ["reconciler", "deployment.load"]
    assert house.ask("audited", "stub-1")[-2] == ["test", "deployment.keep"]
    beginnings = [[span["name"] for span in row["spans"]][:4] for row in house.ask("usage", key)]
    assert ["parse", "choose", "load", "prepare"] in beginnings


@pytest.mark.parametrize("wake_seconds", ["3"])
def test_a_load_that_takes_longer_than_a_request_waits_is_answered_when_to_come_again(house: House) -> None:
    house.ask("make", "slow-1", {"load_seconds": 8})
    house.ask("share", "sluggish", {"slow-1": 100})
    began = time.monotonic()
    answer = post(house, body(model="sluggish"))
    assert time.monotonic() - began > 2.9  # and it does not wait for the end of the load
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_loading")
    assert int(answer.headers["retry-after"]) >= 1
    eventually(lambda: state(house, "slow-1") == "loading")
    assert house.ask("deployment", "slow-1")["stage"] == "reading weights"
    eventually(lambda: is_loaded(house, "sluggish"))
    eventually(lambda: house.ask("deployment", "slow-1")["load_seconds"] is not None)
    row = house.ask("deployment", "slow-1")
    assert 7.5 < row["load_seconds"] < 60 and row["memory_bytes"] == 1_000_000
    assert said(post(house, body("who", model="sluggish", max_tokens=50))) == "slow-1"
    house.ask("serve_no_longer", "sluggish")
    assert house.ask("deploy", "unload", "slow-1") == ""


def test_what_answers_requests_is_not_unloaded_and_leaves_after_a_grace(house: House) -> None:
    house.ask("make", "stub-2", {})
    house.ask("share", "stub", {"stub-1": 50, "stub-2": 50})
    assert "stub" in house.ask("deploy", "unload", "stub-2")
    eventually(lambda: state(house, "stub-2") == "ready")
    answers = {said(post(house, body("who", max_tokens=50))) for _ in range(30)}
    assert answers == {"stub-1", "stub-2"}
    house.ask("share", "stub", {"stub-1": 100})
    house.ask("share", "second", {"stub-2": 100})
    with streaming(house, body("slow", model="second", max_tokens=160)) as events:
        list(islice(events, 2))
        house.ask("serve_no_longer", "second")
        house.ask("deploy", "unload", "stub-2")
        time.sleep(1)
        assert state(house, "stub-2") == "ready"  # who chose before still finds it
        assert list(events)[-1] == "[DONE]"
    eventually(lambda: state(house, "stub-2") == "absent")


def test_a_third_makes_the_least_recently_used_leave(house: House) -> None:
    for revision in ("stub-2", "stub-3"):
        house.ask("make", revision, {})
    house.ask("deploy", "load", "stub-2")
    eventually(lambda: state(house, "stub-2") == "ready")
    house.ask("deploy", "load", "stub-3")
    eventually(lambda: state(house, "stub-3") == "ready")
    assert house.ask("deployment", "stub-2")["wanted"] == "unloaded"
    assert house.ask("deployment", "stub-2")["reason"] == "made room for stub-3"
    assert state(house, "stub-1") == "ready"
    house.ask("deploy", "unload", "stub-3")


def test_a_forced_model_is_served_alone(house: House) -> None:
    house.ask("make", "stub-2", {})
    house.ask("share", "other", {"stub-2": 100})
    with streaming(house, body("slow", max_tokens=20)) as events:
        list(islice(events, 2))
        house.ask("deploy", "force", "stub-2")
        eventually(lambda: is_loaded(house, "other"))
        eventually(lambda: post(house, body()).is_client_error)  # from the reconciler's next look on
        refused = post(house, body())
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "model_not_served")
        assert "stub-2" in refused.json()["error"]["message"]
        assert list(events)[-1] == "[DONE]"
    eventually(lambda: not is_loaded(house))
    assert said(post(house, body("who", model="other", max_tokens=50))) == "stub-2"
    house.ask("deploy", "release", "")
    eventually(lambda: is_loaded(house))
    assert said(post(house, body("who", max_tokens=50))) == "stub-1"
    house.ask("serve_no_longer", "other")


def test_what_cannot_be_loaded_says_why_and_is_tried_again_when_asked(house: House) -> None:
    house.ask("make", "broken", {"error": "half of it is missing"})
    house.ask("share", "fragile", {"broken": 100})
    eventually(lambda: state(house, "broken") == "failed")
    assert house.ask("deployment", "broken")["reason"] == "half of it is missing"
    answer = post(house, body(model="fragile"))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
    house.ask("make", "broken", {})
    time.sleep(1)
    assert state(house, "broken") == "failed"  # not over and over by itself
    house.ask("deploy", "load", "broken")
    eventually(lambda: is_loaded(house, "fragile"))
    house.ask("serve_no_longer", "fragile")
    house.ask("deploy", "unload", "broken")


def test_what_never_fits_is_refused(house: House) -> None:
    house.ask("make", "huge", {}, {"weight_bytes": 10**9})
    assert "MEMORY_BUDGET" in house.ask("deploy", "load", "huge")


class Unready(House):
    """Starts without being ready."""

    awaited = "/health"


def test_a_model_that_fails_does_not_keep_the_console_from_starting(tmp_path: Path) -> None:
    (tmp_path / "stub").mkdir()
    (tmp_path / "stub" / "stub.json").write_text('{"error": "no such weights"}')
    with Unready(tmp_path) as house:
        assert httpx.get(f"{house.url}/ready").status_code == 503
        assert "no such weights" in house.output.read_text()
        (tmp_path / "stub" / "stub.json").unlink()
        house.ask("deploy", "load", "stub-1")
        eventually(lambda: httpx.get(f"{house.url}/ready").status_code == 200)


def test_a_server_killed_in_mid_load_begins_again_from_the_rows(tmp_path: Path) -> None:
    with House(tmp_path) as house:
        house.ask("make", "stub-2", {"load_seconds": 30})
        house.ask("deploy", "load", "stub-2")
        eventually(lambda: state(house, "stub-2") == "loading")
        house.kill()
        assert [state(house, one) for one in ("stub-1", "stub-2")] == ["ready", "loading"]
        house.ask("make", "stub-2", {})
        key = house.key
        house.restart()
        eventually(lambda: state(house, "stub-2") == "ready")
        assert post(house, body(), key=key).is_success
