"""Kill -9 of whoever imports, at random points, with real processes: begun again, never half a revision."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.hub import Hub, serving
from tests.inference.convert.hostile import model_folder, tiny_gguf

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[3]
TELL = """
import django, json; django.setup()
from console.catalog.files import check_files, sweep
from console.catalog.models import Arm, Revision
from console.jobs.models import Job
for revision in Revision.objects.all():
    check_files(revision)  # whoever is registered is whole
jobs = list(Job.objects.values("state", "error", "num_deaths"))
if not Job.objects.filter(state__in=Job.OPEN):
    sweep()
print(json.dumps({"revisions": list(Revision.objects.values_list("folder", flat=True)), "jobs": jobs,
                  "arms": Arm.objects.count()}))
"""
ASK = """
import django, json, sys; django.setup()
from console.audit.actor import Actor
from console.catalog.actions import start_import
print(start_import(actor=Actor.person("mia"), name="tiny", **json.loads(sys.argv[1])).pk)
"""


class House:
    """A DATA_DIR with its database, and processes that work in it."""

    def __init__(self, data_dir: Path, hub: Hub) -> None:
        self.data_dir = data_dir
        self.variables = {
            **os.environ, "DATA_DIR": str(data_dir), "DJANGO_SETTINGS_MODULE": "console.settings",
            "HUB_ENDPOINT": hub.endpoint, "DATABASE_URL": "", "REDIS_URL": "",
        }  # fmt: skip
        self.python("-m", "django", "migrate", "-v", "0")

    def python(self, *arguments: str) -> str:
        command = [sys.executable, *arguments]
        done = subprocess.run(
            command, cwd=ROOT, env=self.variables, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def worker(self) -> subprocess.Popen[str]:
        worker = subprocess.Popen(
            [sys.executable, "-m", "tests.console.catalog.worker"],
            cwd=ROOT, env=self.variables, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert worker.stdout is not None
        with worker.stdout as said:
            assert said.readline() == "begun\n"
        return worker

    def tell(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.python("-c", TELL).splitlines()[-1])
        return told


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Hub]:
    with serving() as hub:
        hub.add("someone/tiny", model_folder(tmp_path / "model"))
        hub.piece_bytes, hub.piece_seconds = 20_000, 0.1
        yield hub


@pytest.fixture
def house(tmp_path: Path, hub: Hub) -> House:
    return House(tmp_path / "data", hub)


@pytest.fixture
def chance() -> random.Random:
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")  # shown where the test fails
    return random.Random(seed)


def children_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def wait_for_children(worker: subprocess.Popen[str]) -> list[psutil.Process]:
    deadline = time.monotonic() + 60
    while not (children := children_of(worker)):
        assert time.monotonic() < deadline and worker.poll() is None
        time.sleep(0.02)
    return children


def assert_whole(house: House) -> None:
    """One revision, servable, of whole files, and nothing beside it."""
    told = house.tell()
    assert [job["state"] for job in told["jobs"]] == ["done"], told
    [folder] = told["revisions"]
    assert told["arms"] == 1
    left = {path.name for path in (house.data_dir / "models").iterdir() if path.is_dir()}
    assert left == {Path(folder).name}


@pytest.mark.parametrize("source", ["gguf", "hub"])
def test_a_worker_that_is_killed_is_followed_by_one_that_ends_the_import(
    source: str, house: House, chance: random.Random, tmp_path: Path
) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    location = "someone/tiny" if source == "hub" else str(tmp_path / "tiny.gguf")
    house.python("-c", ASK, json.dumps({"source": source, "location": location, "quantize": "int8"}))
    orphans: list[psutil.Process] = []
    for _ in range(2):
        worker = house.worker()
        orphans += wait_for_children(worker)
        time.sleep(chance.uniform(0.0, 8.0))
        orphans += [] if worker.poll() is not None else children_of(worker)
        worker.kill()
        worker.wait()
        told = house.tell()  # checks the files of whatever is registered
        assert len(told["revisions"]) == told["arms"] <= 1
        if told["revisions"]:
            break  # the kill came too late
    assert house.worker().wait(300) == 0
    assert_whole(house)
    assert not [one for one in psutil.wait_procs(orphans, timeout=60)[1] if one.status() != "zombie"]


def test_a_child_that_is_killed_is_begun_again_within_the_job(
    house: House, chance: random.Random, tmp_path: Path
) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    wish = {"source": "gguf", "location": str(tmp_path / "tiny.gguf"), "quantize": "int8"}
    house.python("-c", ASK, json.dumps(wish))
    worker = house.worker()
    [child] = wait_for_children(worker)
    time.sleep(chance.uniform(0.0, 4.0))
    with suppress(psutil.NoSuchProcess):  # it may have ended
        child.kill()
    assert worker.wait(300) == 0
    assert_whole(house)
