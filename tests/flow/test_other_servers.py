"""The application under another ASGI server: started and drained by lifespan, cancelled by disconnects."""

from __future__ import annotations

import signal
from itertools import islice
from pathlib import Path

import pytest

from tests.flow.house import House, eventually
from tests.flow.requests import body, create, frames_until_end, post, socket, streaming

pytestmark = pytest.mark.server

pytest.importorskip("uvicorn")


def test_uvicorn_serves_frees_and_finishes_streams(tmp_path: Path) -> None:
    with House(tmp_path, command=["-m", "uvicorn", "console.asgi:application", "--port", "{port}"]) as house:
        key = house.new_key()
        assert post(house, body(), key=key).is_success
        with socket(house, key=key) as connection:
            connection.send(create())
            assert frames_until_end(connection)[-1]["type"] == "chat.completion.done"
        with streaming(house, body("slow", max_tokens=500), key=key) as events:
            assert len(list(islice(events, 4))) == 4
        eventually(lambda: house.num_running() == 0)
        with streaming(house, body("slow", max_tokens=30), key=key) as events:
            assert len(list(islice(events, 2))) == 2
            house.process.send_signal(signal.SIGTERM)
            assert list(events)[-1] == "[DONE]"
        assert house.process.wait(60) == -signal.SIGTERM  # uvicorn ends by the signal that it got
        rows = house.ask("usage", key)
        assert [row["outcome"] for row in rows] == ["finished", "finished", "cancelled", "finished"]
