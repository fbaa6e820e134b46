"""Traces over OTLP, from the real server to a real receiver."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import httpx
import pytest

from tests.flow.house import ROOT, House, eventually, free_port
from tests.flow.requests import body, create, frames_until_end, post, socket, streaming
from tests.otlp_receiver import Received, Receiver, receiving

pytestmark = pytest.mark.server

SERVER, INTERNAL = 2, 1
CALLER = "4bf92f3577b34da6a3ce929d0e0e4736"
ABOVE = "00f067aa0ba902b7"
SECRET_WORDS = "xylophone-of-the-caller"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, receiver: Receiver) -> Iterator[House]:
    settings = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.url,
        "OTEL_EXPORTER_OTLP_HEADERS": "authorization=Basic%20abc",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
    }
    with House(tmp_path_factory.mktemp("traced"), **settings) as house:
        yield house


def last_row(house: House, key: str) -> dict[str, Any]:
    row: dict[str, Any] = house.ask("usage", key)[-1]
    return row


def family(receiver: Receiver, row: dict[str, Any]) -> tuple[Received, Received, list[Received]]:
    """Server span, generation and its stretches in order; there is nothing else in the trace."""

    def whole() -> list[Received]:
        spans = receiver.trace_of(row["request_id"])
        return spans if any(one.kind == SERVER for one in spans) else []

    spans = eventually(whole)
    (server,) = [one for one in spans if one.kind == SERVER]
    (chat,) = [one for one in spans if one.parent_id == server.span_id]
    stretches = [one for one in spans if one.parent_id == chat.span_id]
    assert len(spans) == 2 + len(stretches)
    return server, chat, sorted(stretches, key=lambda one: one.start)


def agrees(row: dict[str, Any], server: Received, chat: Received, stretches: list[Received]) -> None:
    """The trace tells the times of the ledger, to what its roundings leave; its last stretch has the commit
    in it, which the row cannot know."""
    told = [one for one in row["spans"] if one["name"] != "answer" and one["end"] > one["start"]]
    assert [one.name for one in stretches] == [one["name"] for one in told]
    assert row["total_seconds"] - 2e-5 <= chat.seconds <= row["total_seconds"] + 10.0
    for span, one in zip(stretches, told, strict=True):
        assert span.start - chat.start == pytest.approx(one["start"], abs=2e-5)
        if span.name != "settle":
            assert span.end - chat.start == pytest.approx(one["end"], abs=2e-5)
    assert stretches[0].start == chat.start and stretches[-1].end == chat.end
    assert all(before.end == after.start for before, after in pairwise(stretches))
    assert server.start <= chat.start and chat.end <= server.end


def test_a_stream_is_one_trace_from_the_socket_to_the_decode(traced: House, receiver: Receiver) -> None:
    key = traced.new_key()
    began = time.time()
    with streaming(traced, body("slow queue", max_tokens=30), key=key) as events:
        list(events)
    ended = time.time()
    row = last_row(traced, key)
    server, chat, stretches = family(receiver, row)
    agrees(row, server, chat, stretches)
    assert began <= server.start and server.end <= ended + 5.0 and server.seconds > 1.5
    assert server.name == "POST /v1/chat/completions" and not server.parent_id
    assert server.attributes["http.response.status_code"] == 200
    assert chat.name == "chat stub" and chat.kind == INTERNAL and chat.events == ("answer",)
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "pilothouse",
        "gen_ai.request.model": "stub",
        "gen_ai.request.max_tokens": 30,
        "gen_ai.response.finish_reasons": ["length"],
        "gen_ai.usage.input_tokens": row["prompt_tokens"],
        "gen_ai.usage.output_tokens": 30,
        "pilothouse.transport": "sse",
        "pilothouse.outcome": "finished",
    }
    assert expected.items() <= chat.attributes.items()
    by_name = {one.name: one for one in stretches}
    assert {"parse", "choose", "prepare", "reserve", "queue", "prefill", "decode", "settle"} <= set(by_name)
    assert by_name["queue"].attributes == {"pilothouse.reason": "blocks"}
    assert by_name["decode"].attributes == {"pilothouse.tokens": 29, "pilothouse.batch": 1}


@pytest.mark.parametrize("door", ["rest", "websocket"])
def test_the_other_doors_leave_the_same_trace(traced: House, receiver: Receiver, door: str) -> None:
    key = traced.new_key()
    if door == "rest":
        post(traced, body("slow"), key=key)
    else:
        with socket(traced, key=key) as connection:
            connection.send(create("slow"))
            frames_until_end(connection)
    row = last_row(traced, key)
    server, chat, stretches = family(receiver, row)
    agrees(row, server, chat, stretches)
    assert server.name == {"rest": "POST /v1/chat/completions", "websocket": "WEBSOCKET /v1/responses"}[door]
    assert chat.attributes["pilothouse.transport"] == door


def test_requests_of_one_socket_are_traces_of_their_own(traced: House, receiver: Receiver) -> None:
    key = traced.new_key()
    with socket(traced, key=key) as connection:
        for _ in range(2):
            connection.send(create())
            frames_until_end(connection)
    rows = traced.ask("usage", key)
    first, second = (family(receiver, row)[0] for row in rows)
    assert first.trace_id != second.trace_id


def test_a_traceparent_is_continued_at_every_door(traced: House, receiver: Receiver) -> None:
    key = traced.new_key()
    headers = {"traceparent": f"00-{CALLER}-{ABOVE}-01", "tracestate": f"vendor={SECRET_WORDS}"}
    url = f"{traced.url}/v1/chat/completions"
    answer = httpx.post(url, json=body(), headers=traced.headers(key) | headers)
    assert answer.headers["x-trace-id"] == CALLER
    url = traced.url.replace("http", "ws") + "/v1/responses"
    from websockets.sync.client import connect

    with connect(url, additional_headers=traced.headers(key) | headers) as connection:
        connection.send(create())
        frames_until_end(connection)

    def both() -> list[Received]:
        found = [one for one in receiver.spans if one.trace_id == CALLER and one.kind == SERVER]
        return found if len(found) == 2 else []

    assert {one.parent_id for one in eventually(both)} == {ABOVE}


def test_a_trace_that_its_caller_does_not_record_is_not_recorded(traced: House, receiver: Receiver) -> None:
    other = CALLER[::-1]
    headers = traced.headers() | {"traceparent": f"00-{other}-{ABOVE}-00"}
    answer = httpx.post(f"{traced.url}/v1/chat/completions", json=body(), headers=headers)
    assert answer.headers["x-trace-id"] == other
    seen = post(traced, body()).headers["x-trace-id"]
    eventually(lambda: seen in receiver.traces())
    assert other not in receiver.traces()


def test_a_failure_is_told_and_a_refusal_is_a_server_span_alone(traced: House, receiver: Receiver) -> None:
    key = traced.new_key()
    failed = post(traced, body("fail-after-3"), key=key)
    server, chat, _ = family(receiver, last_row(traced, key))
    assert failed.status_code == 500 and server.is_failed and chat.is_failed
    assert chat.attributes["error.type"] == "engine_error"
    refused = post(traced, body(model="nobody"), key=key)
    trace_id = refused.headers["x-trace-id"]
    (span,) = eventually(lambda: receiver.traces().get(trace_id))
    assert span.attributes["error.type"] == "model_not_found" and not span.is_failed
    assert span.attributes["pilothouse.request_id"] == refused.headers["x-request-id"]


def test_no_word_of_the_caller_and_no_key_is_sent(traced: House, receiver: Receiver) -> None:
    key = traced.new_key()
    payload = body(SECRET_WORDS, stop=[SECRET_WORDS], user=SECRET_WORDS)
    url = f"{traced.url}/v1/chat/completions?note={SECRET_WORDS}"
    httpx.post(url, json=payload, headers=traced.headers(key) | {"baggage": f"a={SECRET_WORDS}"})
    httpx.get(f"{traced.url}/v1/{SECRET_WORDS}", headers=traced.headers(key))
    family(receiver, last_row(traced, key))
    eventually(lambda: any(one.attributes.get("http.response.status_code") == 404 for one in receiver.spans))
    for secret in (SECRET_WORDS, key, key.removeprefix("ph_"), last_row(traced, key)["owner"]):
        assert secret.encode() not in receiver.raw


def test_pages_and_probes_are_not_traced(traced: House) -> None:
    for path in ("/health", "/metrics", "/account/sign-in/"):
        assert "x-trace-id" not in httpx.get(traced.url + path, follow_redirects=True).headers


def test_headers_and_resource_are_as_configured(traced: House, receiver: Receiver) -> None:
    post(traced, body())
    eventually(lambda: receiver.headers)
    assert receiver.headers[0]["authorization"] == "Basic abc"
    about = receiver.resources[0]
    assert about["service.name"] == "pilothouse" and about["deployment.environment.name"] == "test"


def test_what_waits_is_sent_at_the_drain(tmp_path: Any) -> None:
    with receiving() as receiver:
        with House(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url) as house:
            trace_id = post(house, body()).headers["x-trace-id"]
        assert {one.kind for one in receiver.traces()[trace_id]} == {SERVER, INTERNAL}


def spans_that(house: House, outcome: str) -> float:
    lines = httpx.get(f"{house.url}/metrics").text.splitlines()
    told = [line for line in lines if f'trace_spans_total{{outcome="{outcome}"}}' in line]
    return float(told[0].split()[-1]) if told else 0.0


def test_a_receiver_in_trouble_costs_spans_and_no_request(tmp_path: Any) -> None:
    with (
        receiving(status=503) as receiver,
        House(tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT=receiver.url) as house,
    ):
        for delay in (0.0, 90.0):  # broken, then slow
            receiver.delay, before = delay, spans_that(house, "failed")
            waits = []
            for _ in range(10):
                began = time.monotonic()
                assert post(house, body()).status_code == 200
                waits.append(time.monotonic() - began)
            assert max(waits) < 30.0
            eventually(lambda before=before: spans_that(house, "failed") > before)
        post(house, body())
        began = time.monotonic()
        house.close()
        assert time.monotonic() - began < 45  # the drain did not wait for the receiver
        log = house.output.read_text()
        assert log.count("does not take traces") == 1 and "Traceback" not in log and "Drained" in log


def test_nothing_of_opentelemetry_is_imported_without_an_endpoint(house: House) -> None:
    post(house, body())
    assert "x-trace-id" not in post(house, body()).headers
    code = (
        "import json, sys, django; from console.environment import name_settings; name_settings();"
        "import console.asgi, console.server.startup; console.server.startup.start_tracing();"
        "print(json.dumps([one for one in sys.modules if one.startswith('opentelemetry')]))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("OTEL_")}
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, cwd=ROOT, env=environment, capture_output=True
    )
    assert json.loads(done.stdout.splitlines()[-1]) == []


def test_an_endpoint_without_the_extra_is_a_clear_word_at_the_start(tmp_path: Any) -> None:
    (tmp_path / "opentelemetry.py").write_text("")  # hides the package as though it were not installed
    environment = os.environ | {
        "DATA_DIR": str(tmp_path / "data"),
        "PYTHONPATH": str(tmp_path),
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318",
        "PORT": str(free_port()),
    }
    command = [sys.executable, "manage.py", "serve"]
    done = subprocess.run(
        command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert 'pip install "pilothouse[otel]"' in done.stderr and "Traceback" not in done.stderr
