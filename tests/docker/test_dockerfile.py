"""docker/Dockerfile and the scripts beside it: linted, and each file that they name is there. No image is
built."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from dockerfile_parse import DockerfileParser

from tests.test_house_rules import ROOT

DOCKER = ROOT / "docker"
BIN = Path(sys.executable).parent
TARGETS = {"web": "PYTHON_IMAGE", "cpu": "web", "gpu": "CUDA_IMAGE", "quant": "gpu"}
SCRIPTS = sorted(DOCKER.glob("*.sh"))


def stages() -> dict[str, list[dict[str, Any]]]:
    """Target -> its instructions."""
    parser = DockerfileParser(path=str(DOCKER / "Dockerfile"))
    found: dict[str, list[dict[str, Any]]] = {}
    for one in parser.structure:
        if one["instruction"] == "FROM":
            found[one["value"].split(" AS ")[1]] = current = []
        elif found and one["instruction"] != "COMMENT":
            current.append(one)
    return found


def values(stage: list[dict[str, Any]], instruction: str) -> list[str]:
    return [one["value"] for one in stage if one["instruction"] == instruction]


def run(*command: object) -> None:
    done = subprocess.run(
        [str(one) for one in command], check=False, capture_output=True, text=True, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint_is_content() -> None:
    run(BIN / "hadolint", "docker/Dockerfile")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_is_content(script: Path) -> None:
    run(BIN / "shellcheck", script)


def test_the_targets_stand_on_pinned_bases() -> None:
    text = (DOCKER / "Dockerfile").read_text()
    bases = dict(re.findall(r"^FROM (\S+) AS (\S+)$", text, re.MULTILINE))
    assert {target: base.strip("${}") for base, target in bases.items()} == TARGETS
    for argument in ("PYTHON_IMAGE", "CUDA_IMAGE"):
        assert re.search(rf"^ARG {argument}=[a-z/]+:\d+\.\d+\.\d+-\S+$", text, re.MULTILINE)


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_as_nobody_special(target: str) -> None:
    assert values(stages()[target], "USER")[-1] == "10001:10001"


@pytest.mark.parametrize("target", ["web", "gpu"])
def test_a_base_has_a_health_check_and_passes_signals_on(target: str) -> None:
    stage = stages()[target]
    (check,) = values(stage, "HEALTHCHECK")
    command = json.loads(check.split("CMD", 1)[1])
    assert command == ["python", "docker/healthcheck.py"] and (ROOT / command[1]).exists()
    assert json.loads(values(stage, "ENTRYPOINT")[0]) == ["tini", "--"]
    assert json.loads(values(stage, "CMD")[0]) == ["python", "manage.py", "serve"]
    assert values(stage, "VOLUME") == ["/data"]


def test_both_bases_are_set_up_alike() -> None:
    """A change of one is a change of the other; they differ in the base, its packages and torch."""
    kept = ("COPY", "EXPOSE", "VOLUME", "USER", "STOPSIGNAL", "HEALTHCHECK", "ENTRYPOINT", "CMD", "WORKDIR")
    web, gpu = (
        [one["content"] for one in stages()[name] if one["instruction"] in kept] for name in ("web", "gpu")
    )
    assert web == gpu


def test_every_file_that_is_copied_or_run_is_there_and_not_ignored() -> None:
    taken = [
        line[1:].rstrip("/") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"
    ]
    assert all((ROOT / one).exists() for one in taken)
    for stage in stages().values():
        copied = [source for value in values(stage, "COPY") for source in value.split()[:-1] if source != "."]
        ran = re.findall(r"sh (docker/\S+\.sh)", " ".join(values(stage, "RUN")))
        for name in [*copied, *ran]:
            assert (ROOT / name).exists(), name
            assert any(name == one or name.startswith(f"{one}/") for one in taken), f"{name} is ignored"


def test_what_the_images_leave_out_is_not_needed_to_run() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored  # so that secrets, data and tests stay out
    for word in ("data", ".env", "docker/secrets", "tests", ".git"):
        assert f"!{word}" not in ignored and f"!{word}/" not in ignored


def test_extras_that_are_installed_are_ones_that_there_are() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    asked = re.findall(r"sh docker/install\.sh ([a-z,]+)", (DOCKER / "Dockerfile").read_text())
    assert len(asked) == 4
    assert {one for line in asked for one in line.split(",")} <= set(extras)


def test_the_install_line_of_the_web_image_resolves(tmp_path: Path) -> None:
    """pip, asked for what the web target installs, under its constraints: nothing is installed."""
    pip = tmp_path / "venv" / "bin"
    pip.mkdir(parents=True)
    (pip / "python").symlink_to(sys.executable)
    (pip / "pip").write_text(
        f'#!/bin/sh\nexec "{sys.executable}" -m pip "$@" --dry-run --quiet --no-build-isolation\n'
    )
    (pip / "pip").chmod(0o755)
    done = subprocess.run(
        ["sh", "docker/install.sh", "postgres,otel"],
        check=False,
        cwd=ROOT,
        env=os.environ | {"VENV": str(tmp_path / "venv")},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_secrets_are_made_once_and_fit_together(tmp_path: Path) -> None:
    script = tmp_path / "secrets.sh"
    script.write_text((DOCKER / "secrets.sh").read_text())

    def made() -> dict[str, str]:
        subprocess.run(["sh", script], check=True)
        return {path.name: path.read_text() for path in (tmp_path / "secrets").iterdir()}

    first = made()
    assert made() == first
    assert len(first["postgres_password"]) == 48
    assert (
        first["database_url"]
        == f"postgresql://pilothouse:{first['postgres_password']}@postgres:5432/pilothouse"
    )
    assert (tmp_path / "secrets").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1), (None, 1)])
def test_the_health_check_tells_health(status: int | None, code: int) -> None:
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    asked: list[tuple[str, str | None]] = []

    class Health(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append((self.path, self.headers["host"]))
            self.send_response(status or 200)
            self.end_headers()

        def log_message(self, format: str, *arguments: Any) -> None:
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Health) as server:
        port = server.server_address[1]
        if status is not None:
            threading.Thread(target=server.handle_request).start()
        else:
            server.server_close()
        environment = os.environ | {"PORT": str(port), "ALLOWED_HOSTS": ".llm.example.org,localhost"}
        command = [sys.executable, "docker/healthcheck.py"]
        done = subprocess.run(command, check=False, cwd=ROOT, env=environment, capture_output=True)
    assert done.returncode == code
    assert asked == ([] if status is None else [("/health", "llm.example.org")])
