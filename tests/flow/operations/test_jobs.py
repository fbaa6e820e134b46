"""Jobs in `serve` itself: run, cancelled, handed over at SIGTERM, and begun again after kill -9."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flow.house import House, eventually

pytestmark = pytest.mark.server

SERVE = ["-m", "tests.flow.serve_with_kinds"]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("house"), command=SERVE) as house:
        yield house


def begun(file: Path) -> int:
    return file.read_text().count("begun") if file.exists() else 0


def test_a_job_runs_is_seen_to_move_and_can_be_cancelled(house: House) -> None:
    job = house.ask("enqueue", {"steps": 4, "seconds": 0.1})
    eventually(lambda: house.ask("job", job)["state"] == "done")
    long = house.ask("enqueue", {"steps": 600, "seconds": 0.1})
    eventually(lambda: 0 < house.ask("job", long)["fraction"] < 1)
    assert house.ask("job", long)["state"] == "running"
    house.ask("cancel_job", long)
    eventually(lambda: house.ask("job", long)["state"] == "cancelled")


def test_a_job_is_handed_over_at_sigterm_and_ends_after_the_next_start(house: House, tmp_path: Path) -> None:
    file = tmp_path / "steps"
    job = house.ask("enqueue", {"steps": 50, "seconds": 0.1, "file": str(file)})
    eventually(lambda: begun(file) == 1)
    house.process.send_signal(signal.SIGTERM)
    assert house.process.wait(60) == 0
    row = house.ask("job", job)
    assert (row["state"], row["num_deaths"]) == ("queued", 0)
    house.restart()
    eventually(lambda: house.ask("job", job)["state"] == "done")
    assert file.read_text().split() == ["begun", "begun", "ended"]
    assert house.ask("job", job)["ends"] == ["job.done"]


def test_after_kill_9_at_any_point_a_job_is_begun_again_and_ends_once(house: House, tmp_path: Path) -> None:
    jobs = []
    for number in range(2):
        file = tmp_path / f"steps-{number}"
        jobs.append(house.ask("enqueue", {"steps": 30, "seconds": 0.1, "file": str(file)}))
        time.sleep(random.uniform(0.0, 1.0))
        house.process.kill()
        house.process.wait()
        house.restart()
    for job in jobs:
        eventually(lambda job=job: house.ask("job", job)["state"] == "done")
        assert house.ask("job", job)["ends"] == ["job.done"]
    for number in range(2):
        assert (tmp_path / f"steps-{number}").read_text().count("ended") == 1
