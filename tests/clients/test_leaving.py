"""Clients that leave in mid-stream, and a server that is told to stop in mid-stream, with the real model."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients.served import MODEL, Served, serve

pytestmark = [pytest.mark.server, pytest.mark.model]


ENDLESS = {
    "model": MODEL,
    "messages": [{"role": "user", "content": "Tell me about lighthouses."}],
    "temperature": 0,
    "ignore_eos": True,
    "stream": True,
}


def ask(**fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Tell me about lighthouses."}]
    return {
        "model": MODEL,
        "messages": messages,
        "temperature": 0,
        "stream": True,
        "ignore_eos": True,
        **fields,
    }


def chunks(response: httpx.Response) -> Iterator[dict[str, Any]]:
    for line in response.iter_lines():
        if line.startswith("data: ") and line != "data: [DONE]":
            yield json.loads(line.removeprefix("data: "))


def content(chunk: dict[str, Any]) -> str:
    return "".join(choice["delta"].get("content") or "" for choice in chunk["choices"])


def test_client_that_leaves_at_the_fifth_token_frees_the_engine_and_is_counted_for_about_five(
    served: Served,
) -> None:
    before = served.metric("pilothouse_request_output_tokens_sum")
    num_cancelled = served.metric("pilothouse_requests_total", outcome="cancelled")
    with served.api() as api, api.stream("POST", "chat/completions", json=ask(max_tokens=2000)) as response:
        seen = 0
        for chunk in chunks(response):
            seen += bool(content(chunk))
            if seen == 5:
                break
    served.wait_for("pilothouse_requests_running", 0)
    served.wait_for("pilothouse_kv_blocks_used", 0)
    served.wait_for("pilothouse_requests_total", num_cancelled + 1, outcome="cancelled")
    assert 5 <= served.metric("pilothouse_request_output_tokens_sum") - before <= 400  # of 2000


def test_sigterm_in_mid_stream_lets_the_stream_complete_and_exits_with_0(
    default_model: Path, tmp_path: Path
) -> None:
    with serve(default_model, tmp_path) as served, served.api() as api:
        with api.stream("POST", "chat/completions", json=ask(max_tokens=120)) as response:
            received = []
            for chunk in chunks(response):
                received.append(chunk)
                if len(received) == 5:
                    served.process.send_signal(signal.SIGTERM)
        assert received[-1]["choices"][0]["finish_reason"] == "length"
        assert len("".join(map(content, received))) > 100
        assert served.process.wait(60) == 0
