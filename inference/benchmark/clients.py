"""A load spread over processes of its own, so that the clients are not what is measured.

`python -m inference.benchmark.clients` is one of them: a job on its first line of input, "go" on its second.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from inference.benchmark.http_load import TIMEOUT_SECONDS, Endpoint, Outcome, Prompt, closed_loop, summary


class ClientDied(Exception):
    """A process of the load ended without figures."""


def drive_from_processes(
    endpoint: Endpoint, requests: Sequence[tuple[Prompt, int]], *, num_streams: int, num_processes: int
) -> dict[str, object]:
    """The load's figures: seconds from the first process's start to the last one's end."""
    command = [sys.executable, "-m", "inference.benchmark.clients"]
    processes = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
        for _ in range(num_processes)
    ]
    try:
        for index, process in enumerate(processes):
            share = num_streams // num_processes + (index < num_streams % num_processes)
            job = {"endpoint": asdict(endpoint), "requests": requests[index::num_processes], "streams": share}
            _send(process, json.dumps(job))
        for process in processes:
            _read(process)  # it has taken the job
        for process in processes:
            _send(process, "go")
        ended = [_read(process) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.communicate()  # which closes its pipes, too
    seconds = max(one["ended"] for one in ended) - min(one["started"] for one in ended)
    outcomes = [Outcome(**outcome) for one in ended for outcome in one["outcomes"]]
    return summary(outcomes, num_streams=num_streams, seconds=seconds)


def _send(process: subprocess.Popen[bytes], line: str) -> None:
    assert process.stdin is not None
    process.stdin.write(line.encode() + b"\n")
    process.stdin.flush()


def _read(process: subprocess.Popen[bytes]) -> Any:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise ClientDied(f"a client process ended with {process.wait()}")
    return json.loads(line)


def main() -> None:
    """One process's share of the streams and requests."""
    job = json.loads(sys.stdin.readline())
    endpoint = Endpoint(**job["endpoint"])
    requests: list[tuple[Prompt, int]] = [
        (prompt if isinstance(prompt, str) else tuple(prompt), num_tokens)
        for prompt, num_tokens in job["requests"]
    ]
    print(json.dumps("ready"), flush=True)
    sys.stdin.readline()
    started = time.monotonic()
    outcomes = asyncio.run(
        closed_loop(endpoint, requests, num_streams=job["streams"], timeout_seconds=TIMEOUT_SECONDS)
    )
    ended = {"started": started, "ended": time.monotonic(), "outcomes": [asdict(one) for one in outcomes]}
    print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    main()
