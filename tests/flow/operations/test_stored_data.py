"""A data directory of before the modules were moved: the present server starts with it, and all in it holds.

tests/data/before_the_moves.zip was made with the server of commit af49120 and the stub engine, by
tests/flow/house.py of that commit: keys (one limited, one with a scope, one revoked), requests (finished,
failed, refused, streamed), a viewer made on the operators' page, a rollout from stub-1 to stub-2 that was
promoted, a job done, an import that failed, a restart, and a job that the server handed over when it stopped.
Its database was vacuumed; static files, locks and the server's log were left out. Its secrets, keys and
passwords were made for this test and open nothing else.
"""

from __future__ import annotations

import csv
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.browser.conftest import csrf, sign_in
from tests.flow.house import ROOT, House, eventually
from tests.flow.operations.test_jobs import SERVE
from tests.flow.requests import body, create, frames_until_end, post, socket

pytestmark = pytest.mark.server

STORED = ROOT / "tests" / "data" / "before_the_moves.zip"
LIMITED = "ph_uUY83fpKWdEk_ZzoR9uujdbHp9XjJy0IcybB4PdxiYZUjx4S9Y99"
SCOPED = "ph_RXqMpOfRFVC7_mrR8phcGCvgxwOOCpXfQUHCVcGTVi8pvZ3vsvkb"
REVOKED = "ph_xUzOvv9IaUuB_UyPtVMBb2eyi1MghHmkAD3WI7zfgAnA5n2dgDFB"
VIEWER_PASSWORD = "ajk7f2-bsp3gb-ejd2cr-myuygq"
NUM_ENTRIES = 30


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory as it was, which no server touches."""
    folder = tmp_path_factory.mktemp("stored")
    with zipfile.ZipFile(STORED) as packed:
        packed.extractall(folder)
    return folder


@pytest.fixture(scope="module")
def house(stored: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    data_dir = tmp_path_factory.mktemp("house")
    shutil.copytree(stored, data_dir, dirs_exist_ok=True)
    # The engine is named, so that nothing is seeded: what is served is what the old server served.
    with House(data_dir, command=SERVE, ENGINE="tests.stub_engine.StubEngine") as house:
        yield house


@pytest.fixture(scope="module")
def client(house: House) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=house.url, follow_redirects=True, timeout=60) as client:
        assert sign_in(client, "admin", house.password).url.path == "/"
        yield client


def rows(folder: Path, query: str) -> list[Any]:
    """What a query finds in the database as the old server left it."""
    with sqlite3.connect(folder / "pilothouse.sqlite3") as database:
        return database.execute(query).fetchall()


def page(client: httpx.Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, path
    return answer.text


def test_it_serves_what_the_rollout_ended_with(house: House) -> None:
    answer = post(house, body())
    assert (answer.status_code, answer.json()["system_fingerprint"]) == (200, "stub-2")
    with socket(house) as connection:
        connection.send(create())
        assert frames_until_end(connection)[-1]["type"] == "chat.completion.done"


def test_its_audit_log_is_intact_and_has_the_old_signed_checkpoint(house: House, stored: Path) -> None:
    """An entry written now continues the old chain; the old checkpoint, kept elsewhere, still proves it."""
    assert rows(stored, "SELECT max(seq) FROM audit_entry") == [(NUM_ENTRIES,)]
    house.new_key("made by the present server")
    for witness in ([], ["--checkpoint", str(stored / "audit-checkpoint.json")]):
        verified = subprocess.run(
            [sys.executable, "manage.py", "audit_verify", *witness],
            cwd=ROOT,
            env=house.environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert verified.returncode == 0, verified.stdout + verified.stderr
        assert "is intact" in verified.stdout
    # server.started, and the key's
    assert int(verified.stdout.split(":")[1].split()[0]) >= NUM_ENTRIES + 2


def test_its_keys_open_what_they_opened(house: House) -> None:
    assert post(house, body(), key=SCOPED).json()["error"]["code"] == "missing_scope"
    models = httpx.get(f"{house.url}/v1/models", headers=house.headers(SCOPED))
    assert [one["id"] for one in models.json()["data"]] == ["stub"]
    for key in (REVOKED, LIMITED[:-1] + "x"):
        assert post(house, body(), key=key).status_code == 401


def test_its_limits_hold(house: House) -> None:
    answers = [post(house, body(), key=LIMITED) for _ in range(6)]
    assert {one.headers["x-ratelimit-limit-requests"] for one in answers} == {"5"}
    assert {one.headers["x-ratelimit-limit-tokens"] for one in answers} == {"60000"}
    assert (answers[0].status_code, answers[-1].status_code) == (200, 429)


def test_its_people_sign_in(house: House, client: httpx.Client) -> None:
    """`client` is the admin; a viewer still has the role of one."""
    made = {"username": "another", "role": "viewer"}
    assert client.post("/operators/create", data=made | csrf(client)).status_code == 200
    with httpx.Client(base_url=house.url, follow_redirects=True) as viewer:
        assert sign_in(viewer, "viewer", VIEWER_PASSWORD).url.path == "/"
        assert viewer.post("/operators/create", data=made | csrf(viewer)).status_code == 403


def test_its_ledger_is_listed_and_exported(client: httpx.Client, stored: Path) -> None:
    records = rows(
        stored,
        "SELECT request_id, outcome, prompt_tokens, completion_tokens, revision FROM usage_usagerecord",
    )
    assert {record[1] for record in records} == {"finished", "failed"}
    listed, exported = page(client, "/requests/"), page(client, "/requests/export.csv")
    lines = list(csv.reader(exported.splitlines()))
    for request, *told in records:
        assert f"/requests/{request}/" in listed
        [line] = [line for line in lines if request in line]
        assert {str(one) for one in told} <= set(line)
        assert "prefill" in page(client, f"/requests/{request}/").lower()


def test_its_refusals_are_listed(client: httpx.Client) -> None:
    refused = page(client, "/requests/?show=refused")
    assert "invalid_api_key" in refused and "missing_scope" in refused


def test_its_rollout_models_and_keys_are_shown(client: httpx.Client, stored: Path) -> None:
    assert "stub-2" in page(client, "/rollouts/1/")
    for path in ("/models/stub/", "/models/stub/stub-1/", "/models/stub/stub-2/", "/rollouts/", "/panels/"):
        page(client, path)
    for public_id, name in rows(stored, "SELECT public_id, name FROM keys_apikey"):
        assert name in page(client, f"/keys/{public_id}/")


def test_its_jobs_are_shown_and_the_one_handed_over_ends(
    house: House, client: httpx.Client, stored: Path
) -> None:
    jobs = dict(rows(stored, "SELECT state, id FROM jobs_job"))
    assert jobs.keys() == {"done", "failed", "queued"}
    for pk in jobs.values():
        page(client, f"/jobs/{pk}/")
    assert house.ask("job", jobs["failed"])["error_code"] == "unsafe_model"
    eventually(lambda: house.ask("job", jobs["queued"])["state"] == "done")
    assert house.ask("job", jobs["queued"])["ends"] == ["job.done"]
