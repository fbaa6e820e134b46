"""The real server as a process, with a stub engine and a database of its own, and an operator beside it."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent.parent
START_SECONDS = 120.0
STOP_SECONDS = 60.0

_ports = count(20_000 + os.getpid() * 101 % 10_000)  # each process of tests has its own stretch


class House:
    """Starts `manage.py serve`; `key`, `password` are those that it wrote down."""

    start_seconds = START_SECONDS
    awaited = "/ready"  # the address that answers 200 once it has started

    def __init__(
        self,
        data_dir: Path,
        *,
        command: list[str] | None = None,
        before: Sequence[list[Any]] = (),  # what the operator does before the server starts
        **environment: str,
    ) -> None:
        data_dir.mkdir(exist_ok=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [part.format(port=self.port) for part in command or ["manage.py", "serve"]]
        self.environment = {
            **os.environ,
            "DATA_DIR": str(data_dir),
            "DATABASE_URL": "",
            "PORT": str(self.port),
            "ENGINE": "tests.stub_engine.StubEngine",
            "PYTHONUNBUFFERED": "1",
            **environment,
        }
        self.output = data_dir / "server.log"
        self._operator = self._start(
            "-m", "tests.flow.operator", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        if "ENGINE" not in environment:  # a real engine comes with a real model
            self.ask("seed")
        for verb, *arguments in before:
            self.ask(verb, *arguments)
        self._serve()

    def _serve(self) -> None:
        with self.output.open("wb") as log:
            self.process = self._start(*self._command, stdout=log, stderr=subprocess.STDOUT)
        self._wait_until_ready()
        first = self.output.with_name("first-sign-in.txt")
        said = first.read_text() if first.exists() else ""
        self.key = found(r"API key   (\S+)", said)
        self.password = found(r"Sign in   \S+ / (\S+)", said)

    def restart(self) -> None:
        self._end_server()
        self._serve()

    def kill(self) -> None:
        """As a power cut: nothing is drained or written."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> House:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._end_server()
        assert self._operator.stdin is not None and self._operator.stdout is not None
        self._operator.stdin.close()
        self._operator.wait()
        self._operator.stdout.close()

    def _end_server(self) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def ask(self, verb: str, *arguments: Any) -> Any:
        """Let the operator do something; see tests/flow/operator.py."""
        assert self._operator.stdin is not None and self._operator.stdout is not None
        self._operator.stdin.write(json.dumps([verb, *arguments]).encode() + b"\n")
        self._operator.stdin.flush()
        return json.loads(self._operator.stdout.readline())

    def new_key(self, name: str = "program", **access: list[str]) -> str:
        """A key's secret; `scopes` and `models` limit it."""
        return str(self.ask("issue", name, access))

    def headers(self, key: str | None = None) -> dict[str, str]:
        return {"authorization": f"Bearer {key or self.key}"}

    def num_running(self) -> float:
        """The running gauge, as Prometheus sees it."""
        text = httpx.get(f"{self.url}/metrics").text
        values = re.findall(r"^pilothouse_\w*running\w*(?:\{[^}]*\})? (\S+)$", text, re.MULTILINE)
        assert values, text[:2000]
        return sum(map(float, values))

    def _start(self, *command: str, **streams: Any) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, *command], cwd=ROOT, env=self.environment, **streams)

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + self.start_seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                if httpx.get(f"{self.url}{self.awaited}").status_code == 200:
                    return
            except httpx.TransportError:
                pass
            time.sleep(0.1)
        self.close()
        raise AssertionError(f"the server did not start:\n{self.output.read_text()}")


def found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    return match[1] if match else ""


def free_port() -> int:
    """None of those that the kernel hands out, or another program could get it before it is used."""
    return next(port for port in _ports if is_free(port))


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def eventually(check: Any, *, seconds: float = 30.0) -> Any:
    """What `check` returns once it is true; fails when that takes too long."""
    deadline = time.monotonic() + seconds
    while not (value := check()):
        assert time.monotonic() < deadline, f"still {value!r}"
        time.sleep(0.02)
    return value
