"""The real server with its database on a disk that fills up, and on a database that something else holds."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import httpx
import pytest

from tests.flow.house import House, eventually
from tests.flow.requests import body, streaming

pytestmark = pytest.mark.server

SIZE = "24m"


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own; root alone can make one."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("a disk of its own takes a right to mount")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def post(house: House) -> httpx.Response:
    return httpx.post(
        f"{house.url}/v1/chat/completions", json=body("hello"), headers=house.headers(), timeout=30
    )


def ready(house: House) -> httpx.Response:
    return httpx.get(f"{house.url}/ready", timeout=30)


def fill(disk: Path) -> Path:
    """Until nothing more goes in."""
    path = disk / "filler"
    with path.open("wb", buffering=0) as file, pytest.raises(OSError, match="No space left"):
        while True:
            file.write(b"\0" * 4096)
    return path


def is_refused(answer: httpx.Response) -> bool:
    code = answer.json()["error"]["code"]
    return (answer.status_code, code, answer.headers["retry-after"]) == (503, "storage_unavailable", "1")


def test_a_full_disk_is_said_and_nothing_is_lost(tmp_path: Path, disk: Path) -> None:
    with House(tmp_path / "data", DATABASE_URL=f"sqlite:///{disk}/base.sqlite3") as house:
        assert post(house).status_code == 200
        before = len(house.ask("usage", house.key))
        with streaming(house, body("slow", max_tokens=60)) as events:
            list(islice(events, 3))
            filler = fill(disk)
            eventually(lambda: ready(house).status_code == 503)
            assert all(is_refused(post(house)) for _ in range(8))
            page = httpx.post(f"{house.url}/account/sign-in/", data={"login": "x", "password": "y"})
            assert page.status_code in (403, 503)  # the form's token is asked for first
            filler.unlink()
            rest = list(events)
        assert rest[-1] == "[DONE]"
        eventually(lambda: ready(house).status_code == 200)
        assert post(house).status_code == 200
        outcomes = [row["outcome"] for row in house.ask("usage", house.key)]
        assert outcomes == ["finished"] * (before + 2)
        eventually(lambda: house.ask("tickets") == 0)
        assert "Traceback" not in house.output.read_text()


def test_a_database_that_something_else_holds_is_said_and_nothing_is_lost(tmp_path: Path) -> None:
    with House(tmp_path / "data") as house:
        assert post(house).status_code == 200
        other = sqlite3.connect(tmp_path / "data" / "pilothouse.sqlite3", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        assert all(is_refused(post(house)) for _ in range(4))
        eventually(lambda: ready(house).status_code == 503)
        other.execute("ROLLBACK")
        other.close()
        eventually(lambda: ready(house).status_code == 200)
        assert post(house).status_code == 200
        assert [row["outcome"] for row in house.ask("usage", house.key)] == ["finished"] * 2
        assert house.ask("tickets") == 0
        assert "Traceback" not in house.output.read_text()
