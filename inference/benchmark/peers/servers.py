"""Servers under test: started on this machine, waited for, watched for memory, stopped."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import psutil  # type: ignore[import-untyped]

from inference.benchmark.http_load import Endpoint

START_SECONDS = 300.0
STOP_SECONDS = 30.0
SAMPLE_SECONDS = 0.2
POLL_SECONDS = 0.1
LOG_LINES = 20  # of a server that failed, in what is said of it


T = TypeVar("T")


class ServerDied(Exception):
    """A server under test ended, or never answered; its log says why."""


@dataclass(frozen=True, slots=True)
class Server:
    """A server under test: its command (`{port}` is replaced), readiness path and environment."""

    name: str
    command: tuple[str, ...]
    model: str
    ready_path: str  # answers 200 once the server can be asked
    key: Callable[[], str] = lambda: "none"  # asked once the server is ready
    variables: Mapping[str, str] = field(default_factory=dict)  # beside the inherited environment
    fatal_log_text: str = ""  # in its log: it will not become ready

    def command_line(self, port: int) -> list[str]:
        """The command with its variables set by env(1), so that all else is inherited."""
        variables = [f"{name}={value}" for name, value in self.variables.items()]
        return [part.replace("{port}", str(port)) for part in ("env", *variables, *self.command)]


@dataclass(slots=True)
class Running:
    """A server that answers."""

    server: Server
    endpoint: Endpoint
    process: subprocess.Popen[bytes]
    log: Path
    peak_bytes: int = 0  # resident memory of the process and its children, since it started
    ready_seconds: float = 0.0  # from the start of the process until it answered

    async def watched(self, load: Coroutine[Any, Any, T]) -> T:
        """The result of `load`. Raises `ServerDied` as soon as the server ends."""
        task = asyncio.ensure_future(load)
        while not task.done():
            if self.process.poll() is not None:
                task.cancel()
                raise self.died(f"ended with {self.process.returncode}")
            await asyncio.wait([task], timeout=SAMPLE_SECONDS)
        return task.result()

    def died(self, how: str) -> ServerDied:
        """An exception that shows the end of the server's log."""
        said = "\n".join(self.log.read_text(errors="replace").splitlines()[-LOG_LINES:])
        return ServerDied(f"{self.server.name} {how}; {self.log} ends with:\n{said}")

    @contextlib.contextmanager
    def alone(self, *others: Running) -> Iterator[None]:
        """Stop the other servers' clocks meanwhile: an idle server that polls would take this one's cores."""
        for other in others:
            other.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            for other in others:
                other.process.send_signal(signal.SIGCONT)


def free_port() -> int:
    """A free TCP port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextlib.contextmanager
def running(server: Server, *, log: Path) -> Iterator[Running]:
    """Start a server and yield it once it answers; stopped by SIGTERM at the end."""
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(server.command_line(port), stdout=output, stderr=output)  # noqa: S603
    endpoint = Endpoint(f"http://127.0.0.1:{port}/v1", server.model)
    started = Running(server, endpoint, process, log)
    stopped = threading.Event()
    watcher = threading.Thread(target=_watch_memory, args=(started, stopped), daemon=True)
    watcher.start()
    begun = time.monotonic()
    try:
        _wait_until_ready(started, port)
        started.ready_seconds = time.monotonic() - begun
        started.endpoint = replace(endpoint, key=server.key())
        yield started
    finally:
        stopped.set()
        watcher.join()
        _stop(process)


def _wait_until_ready(started: Running, port: int) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if started.process.poll() is not None:
            raise started.died(f"ended with {started.process.returncode}")
        if _answers(port, started.server.ready_path):
            return
        fatal = started.server.fatal_log_text
        if fatal and fatal in started.log.read_text(errors="replace"):
            raise started.died("will not be ready")
        time.sleep(POLL_SECONDS)
    raise started.died(f"did not answer within {START_SECONDS:.0f} s")


def _answers(port: int, path: str) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _watch_memory(started: Running, stopped: threading.Event) -> None:
    while not stopped.wait(SAMPLE_SECONDS):
        started.peak_bytes = max(started.peak_bytes, resident_bytes(started.process.pid))


def resident_bytes(pid: int) -> int:
    """Resident memory of a process and its children now; 0 once it is gone."""
    try:
        root = psutil.Process(pid)
        return sum(one.memory_info().rss for one in (root, *root.children(recursive=True)))
    except psutil.Error:
        return 0


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
