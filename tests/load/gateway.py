"""What a streamed token costs between the engine's thread and the socket: the real server over an engine that
keeps a GPU's time, its readers in other processes. With a shape it is a real engine, measured alone before.

    python -m tests.load.gateway [--streams 1 32 256] [--tokens 400] [--step-ms 20]
    python -m tests.load.gateway --shape llama-8b [--quantization fp8] [--streams 32 256]

CPU time is the figure to trust on a machine that others use; speeds and gaps are disturbed there.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.flow.house import ROOT, House

NUM_READERS = 2  # processes
NUM_KEYS = 16
BUDGET = 10**9
PROMPT = "tell me what the sea sounds like at night"
NUM_IDS = 256  # of the tiny vocabulary: bytes
TICKS_PER_SECOND = 100  # of /proc
COLUMNS = (
    *("streams", "tokens_per_second", "share_of_engine", "events_per_second", "tokens_per_event"),
    *("cpu_us_per_token", "loop_us", "engine_us", "rest_us", "gap_ms_p50", "gap_ms_p99"),
    *("first_byte_ms_p50", "first_byte_ms_max", "queued_ms", "late_ms_p50", "late_ms_p99", "idle_percent"),
)


class PacedHouse(House):
    """It imports torch, which takes long on a busy machine."""

    start_seconds = 600.0


class CpuWatch:
    """CPU seconds of a process's threads, noted over and over."""

    def __init__(self, pid: int) -> None:
        self._tasks = Path(f"/proc/{pid}/task")
        self._ended = threading.Event()
        self._notes: list[tuple[float, dict[int, float]]] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def spent(self, start: float, end: float) -> dict[int, float]:
        """CPU seconds by thread between two moments, as well as the notes know."""
        inside = [note for moment, note in self._notes if start <= moment <= end]
        seconds = [moment for moment, _ in self._notes if start <= moment <= end]
        scale = (end - start) / (seconds[-1] - seconds[0])
        first, last = inside[0], inside[-1]
        return {thread: (last[thread] - first.get(thread, 0.0)) * scale for thread in last}

    def _run(self) -> None:
        while not self._ended.wait(0.05):
            self._notes.append((time.monotonic(), {int(task.name): cpu(task) for task in self._living()}))

    def _living(self) -> list[Path]:
        try:
            return list(self._tasks.iterdir())
        except OSError:
            return []


def cpu(task: Path) -> float:
    try:
        columns = (task / "stat").read_text().rpartition(")")[2].split()
    except OSError:  # it has ended
        return 0.0
    return (int(columns[11]) + int(columns[12])) / TICKS_PER_SECOND


class Readers:
    """The processes that read; all streams begin at once."""

    def __init__(self, order: dict[str, Any], num_streams: int) -> None:
        count = min(NUM_READERS, num_streams)
        shares = [num_streams // count + (index < num_streams % count) for index in range(count)]
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.load.readers"],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for _ in shares
        ]
        first = 0
        for process, share in zip(self._processes, shares, strict=True):
            self._tell(process, json.dumps({**order, "num_streams": share, "first": first}))
            first += share
        for process in self._processes:
            assert self._hear(process).strip() == "ready"

    def run(self) -> list[dict[str, Any]]:
        for process in self._processes:
            self._tell(process, "start")
        streams = [stream for process in self._processes for stream in json.loads(self._hear(process))]
        for process in self._processes:
            process.communicate()
        return streams

    @staticmethod
    def _tell(process: subprocess.Popen[str], line: str) -> None:
        assert process.stdin is not None
        process.stdin.write(line + "\n")
        process.stdin.flush()

    @staticmethod
    def _hear(process: subprocess.Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline()


def measure(
    *,
    placement: str,
    settings: dict[str, Any],
    num_streams: int,
    num_tokens: int,
    num_prompt_tokens: int = 0,
) -> dict[str, float]:
    """One server, one load, one row. `settings` are what the placement reads; no prompt tokens: words."""
    with tempfile.TemporaryDirectory() as folder:
        data_dir = Path(folder) / "data"
        (data_dir / "stub").mkdir(parents=True)
        (data_dir / "stub" / "stub.json").write_text(json.dumps(settings))
        house = PacedHouse(data_dir, before=[["seed"]], ENGINE=f"tests.load.{placement}")
        try:
            keys = [house.new_key(f"reader {index}") for index in range(min(NUM_KEYS, num_streams))]
            for key in keys:
                house.ask("budget", key, BUDGET)
            order = {"port": house.port, "model": "stub", "keys": keys, "prompt": PROMPT}
            order |= {"num_prompt_tokens": num_prompt_tokens, "num_ids": NUM_IDS}
            Readers({**order, "max_tokens": 8}, min(4, num_streams)).run()  # warm
            readers = Readers({**order, "max_tokens": num_tokens}, num_streams)
            watch = CpuWatch(house.process.pid)
            streams = readers.run()
            watch.stop()
            used = [row["completion_tokens"] for key in keys for row in house.ask("usage", key)]
        finally:
            house.close()
        log = json.loads((data_dir / "steps.json").read_text())
        is_paced = "alone" not in log
        check(streams, num_tokens=num_tokens, used=used, says_words=is_paced)
        alone = num_streams / settings["step_seconds"] if is_paced else log["alone"][str(num_streams)]
        return row(streams, log, watch, pid=house.process.pid, num_streams=num_streams, alone=alone)


def paced(
    *, num_streams: int, num_tokens: int, step_ms: float, host_ms: float, num_prompt_tokens: int = 0
) -> dict[str, float]:
    """Over an engine that keeps time."""
    settings = {"step_seconds": step_ms / 1000, "host_seconds": host_ms / 1000}
    return measure(
        placement="paced.PacedPlacement",
        settings=settings,
        num_streams=num_streams,
        num_tokens=num_tokens,
        num_prompt_tokens=num_prompt_tokens,
    )


def shaped(*, num_streams: int, num_tokens: int, shape: str, quantization: str | None) -> dict[str, float]:
    """Over a real engine, with random weights."""
    settings = {
        "shape": shape,
        "quantization": quantization,
        "streams": [num_streams],
        "tokens": num_tokens,
    }
    return measure(
        placement="shaped.ShapedPlacement", settings=settings, num_streams=num_streams, num_tokens=num_tokens
    )


def check(streams: list[dict[str, Any]], *, num_tokens: int, used: list[int], says_words: bool) -> None:
    """Speed that loses tokens is none: every reader got its own, and the ledger has them."""
    for stream in streams:
        assert stream["status"] == 200 and stream["is_done"], stream
        assert stream["num_tokens"] == num_tokens, stream
        assert stream["num_words"] == num_tokens or not says_words, stream
    assert sum(1 for tokens in used if tokens == num_tokens) == len(streams), used


def row(
    streams: list[dict[str, Any]],
    log: dict[str, Any],
    watch: CpuWatch,
    *,
    pid: int,
    num_streams: int,
    alone: float,
) -> dict[str, float]:
    """`alone`: tokens/s of the engine with nothing beside it."""
    began = max(stream["content_at"][0] for stream in streams)  # from here on all streams run
    ended = min(stream["ended_at"] for stream in streams) - 0.1
    steps = [step for step in log["steps"] if began <= step[1] <= ended and step[3]]
    seconds = steps[-1][2] - steps[0][2]
    tokens = sum(step[3] for step in steps[1:])
    events = sum(began <= at <= ended for stream in streams for at in stream["content_at"])
    gaps = [
        1000 * (later - earlier)
        for stream in streams
        for earlier, later in pairwise(stream["content_at"])
        if began <= earlier and later <= ended
    ]
    asked = min(stream["asked_at"] for stream in streams)
    first_bytes = [1000 * (stream["first_byte_at"] - stream["asked_at"]) for stream in streams]
    spent = watch.spent(began, ended)
    by_token = (ended - began) * (tokens / seconds) / 1e6
    late = [1000 * (step[2] - step[1]) for step in steps]
    idle = sum(max(0.0, after[0] - before[1]) for before, after in pairwise(steps))
    return {
        "streams": num_streams,
        "tokens_per_second": tokens / seconds,
        "share_of_engine": tokens / seconds / alone,
        "events_per_second": events / (ended - began),
        "tokens_per_event": tokens / seconds / (events / (ended - began)),
        "cpu_us_per_token": sum(spent.values()) / by_token,
        "loop_us": spent[pid] / by_token,
        "engine_us": spent[log["thread"]] / by_token,
        "rest_us": (sum(spent.values()) - spent[pid] - spent[log["thread"]]) / by_token,
        "gap_ms_p50": at_percent(gaps, 50),
        "gap_ms_p99": at_percent(gaps, 99),
        "first_byte_ms_p50": at_percent(first_bytes, 50),
        "first_byte_ms_max": max(first_bytes),
        "queued_ms": 1000 * (max(log["submitted"]) - asked),
        "late_ms_p50": at_percent(late, 50),
        "late_ms_p99": at_percent(late, 99),
        "idle_percent": 100 * idle / seconds,
    }


def at_percent(values: list[float], percent: int) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)]


def main() -> None:
    parser = argparse.ArgumentParser(description="What a streamed token costs on its way out.")
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 32, 256])
    parser.add_argument("--tokens", type=int, default=400, help="output tokens of each stream")
    parser.add_argument("--step-ms", type=float, default=20.0, help="how long the device takes for a step")
    parser.add_argument("--host-ms", type=float, default=1.0, help="what launching a step costs the host")
    parser.add_argument(
        "--prompt-tokens", type=int, default=0, help="prompts of so many token ids; default: a few words"
    )
    parser.add_argument(
        "--shape", help="a real engine over random weights of this shape (inference.benchmark)"
    )
    parser.add_argument("--quantization")
    parser.add_argument("--repeat", type=int, default=1)
    given = parser.parse_args()
    for num_streams in given.streams * given.repeat:
        load = {"num_streams": num_streams, "num_tokens": given.tokens}
        if given.shape:
            found = shaped(**load, shape=given.shape, quantization=given.quantization)
        else:
            found = paced(
                **load,
                step_ms=given.step_ms,
                host_ms=given.host_ms,
                num_prompt_tokens=given.prompt_tokens,
            )
        print("  ".join(f"{name}={found[name]:.4g}" for name in COLUMNS), flush=True)


if __name__ == "__main__":
    main()
