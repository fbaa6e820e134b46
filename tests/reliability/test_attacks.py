"""Attacks over every route as the resolver knows it: nobody gets in who may not, and nothing breaks."""

from __future__ import annotations

import json
import random
import re
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from django.urls import URLPattern, URLResolver, get_resolver

from console.policy import Who, who_may
from tests.flow.house import House
from tests.flow.requests import body, post

pytestmark = pytest.mark.server

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
OPEN_TO_STRANGERS = (Who.ANYONE, Who.NEAR_OR_STAFF)  # the latter: this test is near
NUM_FUZZED = 1200
NUM_RACING = 64
BUDGET = 400
ODD: list[Any] = [None, True, -1, 0, 1e308, 2**63, "", "x" * 300, "\u0000", "\u2028", [], [[]], {}, {"a": 1}]
GOOD = body(
    max_tokens=2,
    n=1,
    stop=["x"],
    temperature=0.5,
    top_p=0.9,
    seed=1,
    logprobs=True,
    top_logprobs=2,
    logit_bias={"5": 1},
    user="u",
    stream=False,
    stream_options=None,
)


@dataclass(frozen=True)
class Route:
    name: str
    path: str


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("attacked")) as house:
        yield house


def routes(resolver: Any = None, *, prefix: str = "/", namespace: str = "") -> Iterator[Route]:
    """Every address of the resolver, with made-up parameters."""
    for one in (resolver or get_resolver()).url_patterns:
        part = prefix + filled(str(one.pattern))
        if isinstance(one, URLResolver):
            inner = ":".join(filter(None, [namespace, one.namespace]))
            yield from routes(one, prefix=part, namespace=inner)
        elif isinstance(one, URLPattern) and one.name:
            yield Route(":".join(filter(None, [namespace, one.name])), part)


def filled(pattern: str) -> str:
    text = re.sub(r"<int:\w+>", "999999", pattern)
    text = re.sub(r"<(?:\w+:)?\w+>", "made-up", text)
    return re.sub(r"\(\?P.*", "made-up", text).strip("^$")


ROUTES = sorted(set(routes()), key=lambda route: route.path)


def strangers(house: House) -> dict[str, dict[str, str]]:
    """Credentials of all kinds that open nothing."""
    good = house.new_key("good")
    revoked = house.new_key("revoked")
    house.ask("revoke", revoked)
    other = good[:-1] + ("a" if good[-1] != "a" else "b")
    return {
        "none": {},
        "malformed": {"authorization": "Bearer ph_nothing"},
        "wrong checksum": {"authorization": f"Bearer {other}"},
        "revoked": {"authorization": f"Bearer {revoked}"},
        "key as Basic": {"authorization": f"Basic {good}"},
        "not even a scheme": {"authorization": good},
        "made-up session": {"cookie": "pilothouse=0123456789abcdef0123456789abcdef"},
        "key without scopes for it": {
            "authorization": f"Bearer {house.new_key('narrow', scopes=['models'])}",
        },
    }


def test_every_route_and_method_with_credentials_that_open_nothing(house: House) -> None:
    counts: Counter[int] = Counter()
    wrong: list[tuple[Any, ...]] = []
    kinds = strangers(house)

    def attack(kind: str) -> None:
        with httpx.Client(base_url=house.url, headers=kinds[kind], timeout=120) as client:
            for route in ROUTES:
                for method in METHODS:
                    answer = client.request(method, route.path, json={} if method != "TRACE" else None)
                    counts[answer.status_code] += 1
                    is_open = who_may(route.name) in OPEN_TO_STRANGERS or (
                        kind == "key without scopes for it" and route.name.startswith("gateway:model")
                    )
                    if answer.status_code >= 500 or (answer.is_success and not is_open):
                        wrong.append((kind, method, route, answer.status_code))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(attack, kinds))
    print(f"{counts.total()} requests to {len(ROUTES)} routes: {dict(counts)}")
    assert len(ROUTES) > 100
    assert wrong == []


def test_no_change_by_a_session_without_its_token(house: House) -> None:
    cookie = house.ask("session")
    wrong = []
    with httpx.Client(base_url=house.url, headers={"cookie": cookie}, timeout=120) as client:
        for route in ROUTES:
            if route.name.startswith("gateway:"):
                continue
            for method in ("POST", "PUT", "PATCH", "DELETE"):
                answer = client.request(method, route.path, data={"name": "evil"})
                if answer.is_success or answer.status_code >= 500:
                    wrong.append((method, route, answer.status_code))
    assert wrong == []


def test_fuzzed_requests_are_refused_or_answered(house: House) -> None:
    chance = random.Random(13)
    key = house.new_key("fuzz")
    statuses: Counter[int] = Counter()
    with httpx.Client(base_url=house.url, headers=house.headers(key), timeout=120) as client:
        for number in range(NUM_FUZZED):
            wild = dict(GOOD)
            for name in chance.sample(sorted(wild), k=chance.randint(1, 4)):
                wild[name] = chance.choice(ODD)
            raw = bytearray(json.dumps(wild).encode())
            if number % 3 == 0:
                for _ in range(chance.randint(1, 8)):
                    raw[chance.randrange(len(raw))] = chance.randrange(256)
            answer = client.post("/v1/chat/completions", content=bytes(raw))
            statuses[answer.status_code] += 1
            assert answer.status_code < 500, raw
    print(f"{NUM_FUZZED} fuzzed requests: {dict(statuses)}")


def test_a_budget_is_not_overspent_by_many_at_once(house: House) -> None:
    key = house.new_key("racing")
    house.ask("budget", key, BUDGET)
    start = threading.Barrier(NUM_RACING)
    statuses: Counter[int] = Counter()

    def race(number: int) -> None:
        start.wait(60)
        answer = post(house, body(f"slow {number}", max_tokens=30, n=1 + number % 4), key=key)
        statuses[answer.status_code] += 1

    racing = [threading.Thread(target=race, args=[number]) for number in range(NUM_RACING)]
    for one in racing:
        one.start()
    for one in racing:
        one.join()
    spent = sum(row["prompt_tokens"] + row["completion_tokens"] for row in house.ask("usage", key))
    print(f"{NUM_RACING} at once: {spent} of {BUDGET} tokens, {dict(statuses)}")
    assert set(statuses) <= {200, 429}
    assert 0 < spent <= BUDGET
