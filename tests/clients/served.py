"""The real server in a process of its own, with the default model, and environments for foreign clients."""

from __future__ import annotations

import contextlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "clients"
MODEL = "smollm2-135m"
START_SECONDS = 120.0
STOP_SECONDS = 60.0


@dataclass(frozen=True)
class Served:
    """A server that answers, and the key that it made."""

    port: int
    key: str
    process: subprocess.Popen[bytes]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def api(self) -> httpx.Client:
        """A raw client of the API plane."""
        headers = {"authorization": f"Bearer {self.key}"}
        return httpx.Client(base_url=f"{self.url}/v1/", headers=headers, timeout=120)

    def metric(self, name: str, **labels: str) -> float:
        """The sum over all series of a metric that have these labels."""
        families = text_string_to_metric_families(httpx.get(f"{self.url}/metrics").text)
        samples = [sample for family in families for sample in family.samples if sample.name == name]
        return sum(one.value for one in samples if labels.items() <= one.labels.items())

    def wait_for(self, name: str, value: float, seconds: float = 60.0, **labels: str) -> None:
        """Until a metric has a value."""
        deadline = time.monotonic() + seconds
        while (found := self.metric(name, **labels)) != value:
            assert time.monotonic() < deadline, f"{name} is {found}, not {value}, after {seconds} s"
            time.sleep(0.05)


@contextlib.contextmanager
def serve(model: Path, folder: Path) -> Iterator[Served]:
    """`manage.py serve` on a new data directory that holds the converted model already."""
    data_dir = folder / "data"
    shutil.copytree(model, data_dir / "models" / MODEL)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    settings = [f"DATA_DIR={data_dir}", f"PORT={port}", "HOST=127.0.0.1", "DATABASE_URL=", "REDIS_URL="]
    log = folder / "serve.log"
    with log.open("wb") as output:
        command = ["env", *settings, sys.executable, str(ROOT / "manage.py"), "serve"]
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=ROOT)
    try:
        yield Served(port, printed_key(process, log), process)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def printed_key(process: subprocess.Popen[bytes], log: Path) -> str:
    """The API key in the file that the server names once it listens."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        printed = log.read_text()
        assert process.poll() is None, f"the server ended with {process.returncode}:\n{printed}"
        if "curl " in printed and (found := re.search(r"Password and key are in (\S+),", printed)):
            return re.findall(r"ph_\S+", Path(found[1]).read_text())[0]
        time.sleep(0.1)
    raise AssertionError(f"the server printed no curl line within {START_SECONDS:.0f} s:\n{log.read_text()}")


def python_with(name: str, *requirements: str) -> Path:
    """A Python that has these packages and nothing of ours; made once, kept under build/."""
    environment = BUILD / name
    complete = environment / "complete"
    if not complete.exists() or complete.read_text() != repr(requirements):
        shutil.rmtree(environment, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)
        install = [str(environment / "bin" / "python"), "-m", "pip", "install", "-q", *requirements]
        subprocess.run(install, check=True)
        complete.write_text(repr(requirements))
    return environment / "bin" / "python"


def node_with(name: str, *packages: str) -> Path:
    """A folder in which node finds these packages; made once, kept under build/."""
    folder = BUILD / name
    complete = folder / "complete"
    if not complete.exists() or complete.read_text() != repr(packages):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        install = ["npm", "install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix", str(folder)]
        subprocess.run([*install, *packages], check=True)
        complete.write_text(repr(packages))
    return folder
