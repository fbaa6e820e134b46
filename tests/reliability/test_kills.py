"""kill -9 at random points of an import that quantizes: of the server, of a worker, of the converting child.

Each time the work is done in the end, by whoever comes next, and nothing half made is ever registered.
"""

from __future__ import annotations

import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from tests.flow.house import ROOT, House, eventually
from tests.inference.convert.hostile import model_folder
from tests.services import postgresql, redis

pytestmark = pytest.mark.server

NUM_ROUNDS = 3
LONGEST_SECONDS = 8.0  # an import of the tiny model takes about as long
DONE_SECONDS = 180.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def chance() -> random.Random:
    seed = secrets.randbits(32)
    print(f"seed {seed}")
    return random.Random(seed)


def start_import(house: House, name: str, folder: Path) -> str:
    return str(house.ask("start_import", name, str(folder)))


def wait_until_done(house: House, job: str) -> None:
    eventually(lambda: house.ask("job", job)["state"] == "done", seconds=DONE_SECONDS)


def assert_whole(house: House, name: str) -> None:
    """One revision of that name, its files as they were registered, and nothing beside them."""
    [revision] = house.ask("sound_revisions", name)
    assert revision.startswith(f"{name}-")


def test_the_server_is_killed(tmp_path: Path, folder: Path, chance: random.Random) -> None:
    with House(tmp_path) as house:
        for number in range(NUM_ROUNDS):
            job = start_import(house, f"tiny{number}", folder)
            time.sleep(chance.uniform(0, LONGEST_SECONDS))
            house.kill()
            house.restart()
            wait_until_done(house, job)
            assert_whole(house, f"tiny{number}")


def test_the_converting_child_is_killed(tmp_path: Path, folder: Path, chance: random.Random) -> None:
    with House(tmp_path) as house:
        for number in range(NUM_ROUNDS):
            job = start_import(house, f"tiny{number}", folder)
            child = eventually(lambda: children(house.process.pid), seconds=20)[0]
            time.sleep(chance.uniform(0, LONGEST_SECONDS / 2))
            if child.is_running():
                child.kill()
            eventually(
                lambda job=job: house.ask("job", job)["state"] in ("done", "failed"), seconds=DONE_SECONDS
            )
            if house.ask("job", job)["state"] == "failed":  # it died twice: people try again
                wait_until_done(house, house.ask("retry_job", job))
            assert_whole(house, f"tiny{number}")


def test_the_worker_is_killed(tmp_path: Path, folder: Path, chance: random.Random) -> None:
    with (
        postgresql() as database_url,
        redis() as redis_url,
        House(tmp_path, DATABASE_URL=database_url, REDIS_URL=redis_url) as house,
    ):
        for number in range(NUM_ROUNDS):
            job = start_import(house, f"tiny{number}", folder)
            with worker(house):
                eventually(lambda job=job: house.ask("job", job)["state"] != "queued", seconds=60)
                time.sleep(chance.uniform(0, LONGEST_SECONDS))
            with worker(house):
                wait_until_done(house, job)
            assert_whole(house, f"tiny{number}")


@contextmanager
def worker(house: House) -> Iterator[None]:
    """A Celery worker, killed with its children at the end."""
    command = [sys.executable, "-m", "celery", "-A", "console.celery", "worker", "--loglevel", "INFO"]
    with (house.output.parent / "worker.log").open("ab") as log:
        process = subprocess.Popen(
            command, cwd=ROOT, env=house.environment, stdout=log, stderr=log, start_new_session=True
        )
        try:
            yield
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def children(pid: int) -> list[psutil.Process]:
    """The children that convert."""
    found = psutil.Process(pid).children(recursive=True)
    return [child for child in found if "inference.convert" in " ".join(child.cmdline())]
