"""Real servers for the length of a test: PostgreSQL, Redis, Prometheus, on ports and folders of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx

from tests.flow.house import ROOT, free_port

START_SECONDS = 60.0


@contextmanager
def postgresql() -> Iterator[str]:
    """Yields DATABASE_URL. PostgreSQL refuses to run as root, so there it runs as the user postgres."""
    with TemporaryDirectory(prefix="pilothouse-postgresql-") as name:
        yield from _postgresql(Path(name))


def _postgresql(folder: Path) -> Iterator[str]:
    binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
    as_user: list[str] = []
    if os.geteuid() == 0:
        as_user = ["runuser", "-u", "postgres", "--"]
        shutil.chown(folder, "postgres")
    port, data = free_port(), folder / "data"
    run([*as_user, binaries / "initdb", "-D", data, "-A", "trust", "-U", "pilothouse", "-E", "UTF8"])
    options = (
        f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder} -c max_connections=60"
    )
    run([*as_user, binaries / "pg_ctl", "-D", data, "-w", "-l", folder / "log", "-o", options, "start"])
    try:
        run([binaries / "createdb", "-h", "127.0.0.1", "-p", port, "-U", "pilothouse", "pilothouse"])
        yield f"postgresql://pilothouse@127.0.0.1:{port}/pilothouse"
    finally:
        run([*as_user, binaries / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop"])


@contextmanager
def redis() -> Iterator[str]:
    """Yields REDIS_URL."""
    port = free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            wait_for_redis(port)
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()


def wait_for_redis(port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    ping = ["redis-cli", "-p", str(port), "ping"]
    while subprocess.run(ping, check=False, capture_output=True).stdout.strip() != b"PONG":
        assert time.monotonic() < deadline, "Redis did not start"
        time.sleep(0.05)


def run(command: list[object]) -> None:
    words = [str(part) for part in command]
    finished = subprocess.run(words, check=False, capture_output=True, text=True, cwd="/tmp")
    assert finished.returncode == 0, f"{command[0]}: {finished.stdout}{finished.stderr}"


@contextmanager
def prometheus(folder: Path, *, port: int, target: str) -> Iterator[subprocess.Popen[bytes]]:
    """Scrapes `target` by the shipped configuration, but every second; answers at `port`."""
    shipped = (ROOT / "docker/prometheus/prometheus.yml").read_text()
    assert "web:8000" in shipped and "scrape_interval: 15s" in shipped
    configuration = folder / "prometheus.yml"
    shipped = shipped.replace("web:8000", target).replace("scrape_interval: 15s", "scrape_interval: 1s")
    configuration.write_text(shipped)
    address = f"127.0.0.1:{port}"
    command = [
        "prometheus", f"--config.file={configuration}", f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address={address}", "--log.level=warn",
    ]  # fmt: skip
    with (folder / "log").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as server:
        try:
            deadline = time.monotonic() + START_SECONDS
            while not is_up(f"http://{address}/-/ready"):
                assert time.monotonic() < deadline and server.poll() is None, (folder / "log").read_text()
                time.sleep(0.1)
            yield server
        finally:
            server.terminate()


def is_up(url: str) -> bool:
    try:
        return httpx.get(url).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False
