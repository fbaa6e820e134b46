"""Served through the gateway, beside the engine's own offline figure: `python -m tests.gpu.serve`.

Writes a folder of random weights, imports it, starts `manage.py serve`, sends it a closed loop of SSE streams
from processes of their own, stops it, and runs the same list through the engine alone. On a machine without
Django, `--wheels FOLDER` installs what tests/gpu/wheels.sh has fetched. Prints a short table last.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil

from inference.benchmark.clients import drive_from_processes
from inference.benchmark.folders import write_folder
from inference.benchmark.peers.servers import Running, Server, ServerDied, running
from inference.benchmark.shapes import SHAPES
from inference.benchmark.workloads import WORKLOADS, Item, TokenIds, with_new_prompts

ROOT = Path(__file__).resolve().parents[2]
MODEL = "benchmark"
LOG_LINES = 60
WARM_UP_SEED = 900
WANTED = 0.8  # of the engine's own figure
STARTED = time.monotonic()


class StepFailed(Exception):
    """A command of the set-up failed; its output is the message."""


def say(text: str) -> None:
    print(f"[{time.monotonic() - STARTED:6.1f} s] {text}", flush=True)


def variables(options: argparse.Namespace, work: Path) -> dict[str, str]:
    """The environment of every command that needs the console."""
    path = [str(work / "site"), str(options.root), os.environ.get("PYTHONPATH", "")]
    return {
        "PYTHONPATH": os.pathsep.join(part for part in path if part),
        "DATA_DIR": str(work / "data"),
        "DATABASE_URL": "",
        "REDIS_URL": "",
        "MEMORY_SHARE": "1",
        "MAX_MODEL_LEN": str(options.max_model_len),
        **dict(one.split("=", 1) for one in options.setting),
    }


def run(command: list[str], more: dict[str, str], *, root: Path = ROOT) -> str:
    """A command's output; raises with it where the command fails."""
    ended = subprocess.run(
        command,
        check=False,
        env={**os.environ, **more},
        cwd=root,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = ended.stdout.decode(errors="replace")
    if ended.returncode:
        raise StepFailed(f"{' '.join(command)} ended with {ended.returncode}:\n{said[-4000:]}")
    return said


def prepare(options: argparse.Namespace, work: Path) -> Path:
    """Packages, weights, database and catalog; the model's folder."""
    if options.wheels:
        run(
            ["sh", "tests/gpu/wheels.sh", "--install", str(options.wheels), str(work / "site")],
            {"PYTHON": sys.executable},
        )
        say("installed the wheels")
    folder = options.folder or work / "model"
    if options.shape and write_folder(options.shape, folder):
        say(f"wrote random weights of {options.shape} to {folder}")
    more, manage = variables(options, work), [sys.executable, "manage.py"]
    run([*manage, "migrate", "--verbosity", "0"], more, root=options.root)
    run([*manage, "import_model", MODEL, "--folder", str(folder)], more, root=options.root)
    say("imported")
    return folder


def server_of(options: argparse.Namespace, work: Path) -> Server:
    more = variables(options, work)
    manage = (sys.executable, str(options.root / "manage.py"))

    def key() -> str:
        return run([*manage, "issue_key", "benchmark"], more, root=options.root).split()[-1]

    return Server(
        "pilothouse",
        (*manage, "serve"),
        MODEL,
        "/ready",
        key,
        {**more, "PORT": "{port}"},
        fatal_log_text="could not be loaded",
    )


class CpuUse:
    """How much of a core each thread of a process used meanwhile: what is near 100 % is the limit."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._before: dict[int, float] = {}
        self._since = 0.0

    def __enter__(self) -> CpuUse:
        self._before, self._since = self._seconds(), time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        spent, now = time.monotonic() - self._since, self._seconds()
        used = {thread: 100 * (now[thread] - self._before.get(thread, 0.0)) / spent for thread in now}
        busiest = sorted(used.items(), key=lambda one: -one[1])[:4]
        self.report = {
            "process_percent": round(sum(used.values())),
            "threads_percent": {
                "main" if thread == self._process.pid else str(thread): round(percent)
                for thread, percent in busiest
            },
        }

    def _seconds(self) -> dict[int, float]:
        return {one.id: one.user_time + one.system_time for one in self._process.threads()}


def requests_of(items: list[Item], *, seed: int, vocab_size: int) -> list[tuple[TokenIds, int]]:
    """Prompts that were never sent before: of each seed, others."""
    made = with_new_prompts(items, seed=seed, vocab_size=vocab_size)
    return [(item.prompt, item.num_output_tokens) for item in made]


def measure_served(
    options: argparse.Namespace, server: Running, items: list[Item], *, vocab_size: int
) -> list[dict[str, Any]]:
    """A short warm-up, then lists of these lengths as often as asked. No prompt comes twice, so that none is
    answered from the prefix cache.
    """
    load: dict[str, Any] = {"num_streams": options.streams, "num_processes": options.processes}
    warm_up = [
        (prompt, 16)
        for prompt, _ in requests_of(items[: options.streams], seed=WARM_UP_SEED, vocab_size=vocab_size)
    ]
    if errors := drive_from_processes(server.endpoint, warm_up, **load)["errors"]:
        raise StepFailed(f"{len(errors)} requests failed, the first: {errors[0]}")
    runs = []
    for seed in range(1, options.repeats + 1):
        requests = requests_of(items, seed=WARM_UP_SEED + seed, vocab_size=vocab_size)
        use = CpuUse(server.process.pid)
        with use:
            figures: dict[str, Any] = drive_from_processes(server.endpoint, requests, **load)
        if figures["errors"]:
            raise StepFailed(f"{len(figures['errors'])} requests failed, the first: {figures['errors'][0]}")
        runs.append(figures | {"server_cpu": use.report})
        say(f"served: {json.dumps(runs[-1])}")
    return runs


def measure_offline(options: argparse.Namespace, folder: Path, work: Path) -> list[dict[str, Any]]:
    """The engine alone, in a process that has the device to itself, with the settings that served."""
    report = work / "offline.json"
    command = [sys.executable, "-m", "inference.benchmark", str(folder), "--workloads", options.workload]
    command += ["--repeats", str(options.repeats), "--prefix-caching", "on", "--json", str(report)]
    command += ["--max-model-len", str(options.max_model_len), *options.offline]
    say("offline:\n" + run(command, {}).strip())
    runs: list[dict[str, Any]] = json.loads(report.read_text())["workloads"][options.workload]
    return runs


def vocabulary_of(folder: Path) -> int:
    return int(json.loads((folder / "config.json").read_text())["vocab_size"])


def measure(options: argparse.Namespace, work: Path, log: Path) -> dict[str, Any]:
    folder = prepare(options, work)
    vocab_size = min(vocabulary_of(folder), 128_000)
    items = WORKLOADS[options.workload](vocab_size)
    with running(server_of(options, work), log=log) as server:
        say("the server is ready")
        served = measure_served(options, server, items, vocab_size=vocab_size)
        peak_gib = server.peak_bytes / 2**30
    say("the server has stopped")
    offline = measure_offline(options, folder, work)
    speed = max(one["tokens_per_second"] for one in served)
    own = max(one["output_tokens_per_second"] for one in offline)
    return {
        "served": served,
        "offline": offline,
        "served_tokens_per_second": speed,
        "offline_tokens_per_second": own,
        "ratio": round(speed / own, 3),
        "server_peak_gib": round(peak_gib, 2),
    }


def arguments() -> argparse.Namespace:
    parser = options_of_a_load("python -m tests.gpu.serve", __doc__ or "")
    parser.add_argument(
        "--offline", nargs=argparse.REMAINDER, default=[], help="more options of the offline run"
    )
    return parser.parse_args()


def options_of_a_load(name: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=name, description=description)
    parser.add_argument("--shape", choices=SHAPES, default="llama-8b", help="random weights of it")
    parser.add_argument("--folder", type=Path, help="where the weights are, or are to be written")
    parser.add_argument(
        "--work", type=Path, help="data, packages and logs; default: a folder in memory, removed after"
    )
    parser.add_argument("--wheels", type=Path, help="a folder that tests/gpu/wheels.sh has filled")
    parser.add_argument("--workload", choices=WORKLOADS, default="decode256x2")
    parser.add_argument("--streams", type=int, default=256)
    parser.add_argument("--processes", type=int, default=8, help="of the clients")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--max-model-len", type=int, default=4096)
    parser.add_argument("--setting", action="append", default=[], metavar="NAME=VALUE", help="of the server")
    parser.add_argument("--root", type=Path, default=ROOT, help="the checkout whose server is measured")
    parser.add_argument("--json", type=Path, help="also write the report here")
    return parser


def scratch() -> Path:
    """Memory holds the weights where there is enough of it: disks of such machines are slow."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 24 * 2**30
    return Path(tempfile.mkdtemp(prefix="serve-", dir=memory if roomy else None))


def main() -> None:
    options = arguments()
    work = options.work or scratch()
    work.mkdir(parents=True, exist_ok=True)
    log = work / "server.log"
    try:
        report = measure(options, work, log)
    except (StepFailed, ServerDied, KeyboardInterrupt) as error:
        say(f"FAILED: {error}")
        if log.exists():
            print("--- the server's log ends with:")
            print("\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:]))
        raise SystemExit(1) from error
    finally:
        if options.work is None:
            shutil.rmtree(work, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    best = max(report["served"], key=lambda one: one["tokens_per_second"])
    say(f"{options.shape}, {options.workload}, {options.streams} streams, best of {options.repeats}")
    print(f"served   {report['served_tokens_per_second']:10,.1f} tokens/s, server's CPU {best['server_cpu']}")
    print(f"         first token ms {best['first_token_ms']}, between chunks ms {best['between_chunks_ms']}")
    print(f"offline  {report['offline_tokens_per_second']:10,.1f} tokens/s")
    print(f"ratio    {report['ratio']:10.3f} (wanted at least {WANTED})")


if __name__ == "__main__":
    main()
