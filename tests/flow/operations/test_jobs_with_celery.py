"""Jobs in a real Celery worker, over a real Redis and PostgreSQL: through kills, stops and lost words."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.flow.house import ROOT, House, eventually, free_port
from tests.flow.operations.test_jobs import SERVE, begun
from tests.services import postgresql, wait_for_redis

pytestmark = pytest.mark.server


class Redis:
    """A Redis that can be taken away and come back, having forgotten everything."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1", "--save", ""]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_redis(self.port)

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture(scope="module")
def redis() -> Iterator[Redis]:
    server = Redis()
    yield server
    server.stop()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, redis: Redis) -> Iterator[House]:
    folder = tmp_path_factory.mktemp("house")
    with (
        postgresql() as database_url,
        House(folder, command=SERVE, DATABASE_URL=database_url, REDIS_URL=redis.url) as house,
    ):
        yield house


@contextmanager
def worker(house: House) -> Iterator[subprocess.Popen[bytes]]:
    """`celery -A console.celery worker` beside the house, with its environment."""
    command = [sys.executable, "-m", "celery", "-A", "console.celery", "worker", "--loglevel", "INFO"]
    command += ["-I", "tests.console.jobs.kinds_of_work"]
    with (house.output.parent / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | house.environment, stdout=log, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def ended(house: House, job: str) -> list[str]:
    """How often it said that it ended, once it has."""
    eventually(lambda: house.ask("job", job)["state"] not in ("queued", "running"), seconds=60)
    return list(house.ask("job", job)["ends"])


def test_a_worker_runs_jobs_that_are_seen_to_move_and_cancelled(house: House) -> None:
    job = house.ask("enqueue", {"steps": 5, "seconds": 0.1})
    time.sleep(1.5)
    assert house.ask("job", job)["state"] == "queued"  # `serve` leaves it to a worker
    with worker(house):
        assert ended(house, job) == ["job.done"]
        assert house.ask("job", job)["lines"][:2] == ["step 1", "step 2"]
        long = house.ask("enqueue", {"steps": 600, "seconds": 0.1})
        eventually(lambda: 0 < house.ask("job", long)["fraction"] < 1)
        house.ask("cancel_job", long)
        assert ended(house, long) == ["job.cancelled"]


def test_a_worker_without_redis_says_why_it_does_not_start() -> None:
    command = [sys.executable, "-m", "celery", "-A", "console.celery", "worker"]
    environment = os.environ | {"REDIS_URL": ""}
    ended = subprocess.run(
        command, check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert ended.returncode != 0 and "REDIS_URL is not set" in ended.stderr


def test_a_worker_that_is_stopped_hands_over_and_one_that_is_killed_is_recovered(
    house: House, tmp_path: Path
) -> None:
    file = tmp_path / "steps"
    job = house.ask("enqueue", {"steps": 50, "seconds": 0.1, "file": str(file)})
    with worker(house) as first:
        eventually(lambda: begun(file) == 1)
        first.send_signal(signal.SIGTERM)
        first.wait(60)
        assert house.ask("job", job)["state"] == "queued"
    with worker(house) as second:
        eventually(lambda: begun(file) == 2)
        time.sleep(random.uniform(0.0, 1.5))
        second.kill()
        second.wait()
        house.ask("recover")
        row = house.ask("job", job)
        assert (row["state"], row["num_deaths"]) == ("queued", 1)
    with worker(house):
        assert ended(house, job) == ["job.done"]
    assert file.read_text().split() == ["begun"] * 3 + ["ended"]


def test_while_redis_is_away_jobs_are_taken_in_and_what_it_forgot_is_sent_again(
    house: House, redis: Redis
) -> None:
    forgotten = house.ask("enqueue", {"steps": 1})
    time.sleep(1.5)  # sent
    redis.stop()
    begun_at = time.monotonic()
    late = house.ask("enqueue", {"steps": 1})
    assert time.monotonic() - begun_at < 20
    with worker(house):  # which waits for Redis, too
        eventually(lambda: "Redis cannot be told" in house.output.read_text())
        time.sleep(1)
        redis.start()
        assert ended(house, forgotten) == ended(house, late) == ["job.done"]
    assert (house.output.read_text()).count("Redis cannot be told") == 1
