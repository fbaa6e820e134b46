"""Our server beside `transformers serve --continuous-batching`: one machine, model and load, in turns."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.metadata
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.benchmark.http_load import Load, drive
from inference.benchmark.servers import Running, Server, running

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "benchmark"
PEER_PACKAGES = ("fastapi", "uvicorn")  # what `transformers serve` needs beside this project's own packages


@dataclass(frozen=True, slots=True)
class Level:
    """How many streams, how many requests in one measurement, and the ratio that is wanted."""

    num_streams: int
    num_requests: int
    wanted: float


LEVELS = (Level(1, 6, 0.7), Level(8, 32, 0.9), Level(32, 96, 1.6))


def our_server(data_dir: Path, model: str) -> Server:
    """`manage.py serve` on a data directory of its own."""
    variables = {"DATA_DIR": str(data_dir), "DATABASE_URL": "", "REDIS_URL": ""}
    manage = (sys.executable, str(ROOT / "manage.py"))

    def key() -> str:
        command = ["env", *(f"{name}={value}" for name, value in variables.items()), *manage]
        issued = subprocess.run([*command, "issue_key", "benchmark"], check=True, capture_output=True)  # noqa: S603
        return issued.stdout.decode().split()[-1]

    return Server("pilothouse", (*manage, "serve"), model, "/ready", key, {**variables, "PORT": "{port}"})


def peer_server(build: Path, folder: Path, dtype: str) -> Server:
    """transformers' own server on the same folder."""
    serve = ("-m", "transformers.cli.transformers", "serve", str(folder), "--continuous-batching")
    options = ("--dtype", dtype, "--host", "127.0.0.1", "--port", "{port}")
    python = str(peer_python(build))
    return Server(
        "transformers serve",
        (python, *serve, *options),
        model=str(folder),
        ready_path="/health",
        variables={"HF_HUB_OFFLINE": "1"},
    )


def peer_python(build: Path) -> Path:
    """An environment that sees our packages, torch and transformers among them, and adds the peer's few."""
    environment = build / "transformers-serve"
    python = environment / "bin" / "python"
    if not (environment / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", str(environment)], check=True)  # noqa: S603
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        path_file = environment / "lib" / version / "site-packages" / "pilothouse.pth"
        path_file.write_text(sysconfig.get_path("purelib") + "\n")
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PEER_PACKAGES], check=True)  # noqa: S603
        (environment / "complete").touch()
    return python


def model_folder(data_dir: Path) -> Path:
    """The folder that our server converted and serves."""
    folders = sorted(
        {path.parent for path in data_dir.rglob("*.safetensors") if (path.parent / "config.json").exists()}
    )
    if len(folders) != 1:
        raise SystemExit(f"expected one model under {data_dir}, found {len(folders)}: give --folder")
    return folders[0]


def measure(ours: Running, peer: Running, levels: Sequence[Level], repeats: int) -> list[dict[str, Any]]:
    """Each level: a warm-up of both, then measurements in turns, the first one changing each time."""
    results = []
    for level in levels:
        speeds: dict[str, list[dict[str, Any]]] = {ours.server.name: [], peer.server.name: []}
        for repeat in range(repeats + 1):  # the first one warms up
            num_requests = level.num_requests if repeat else level.num_streams
            load = Load(level.num_streams, num_requests, seed=1000 * level.num_streams + repeat)
            pair = (ours, peer) if repeat % 2 else (peer, ours)
            for one, other in (pair, pair[::-1]):
                with one.alone(other):
                    outcome = asyncio.run(drive(one.endpoint, load))
                if repeat:
                    speeds[one.server.name].append(outcome)
                    print(f"{one.server.name}: {json.dumps(outcome)}", flush=True)
        results.append(summary(level, speeds[ours.server.name], speeds[peer.server.name]))
    return results


def summary(level: Level, ours: list[dict[str, Any]], peers: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians and their ratio."""
    our_speed = statistics.median(one["tokens_per_second"] for one in ours)
    peer_speed = statistics.median(one["tokens_per_second"] for one in peers)
    return {
        "streams": level.num_streams,
        "ours": our_speed,
        "peer": peer_speed,
        "ratio": round(our_speed / peer_speed, 2) if peer_speed else None,
        "wanted": level.wanted,
        "our_runs": ours,
        "peer_runs": peers,
    }


def table(report: dict[str, Any]) -> str:
    """The report as the Markdown table of docs/benchmarks.md."""
    rows = ["| streams | ours, tok/s | peer, tok/s | ratio | wanted |", "|---|---|---|---|---|"]
    columns = ("streams", "ours", "peer", "ratio", "wanted")
    rows += ["| " + " | ".join(str(level[column]) for column in columns) + " |" for level in report["levels"]]
    peaks = ", ".join(f"{name} {peak} MiB" for name, peak in report["peak_mib"].items())
    return "\n".join([*rows, "", f"Peak resident memory: {peaks}.", f"Conditions: {report['conditions']}"])


def conditions() -> dict[str, Any]:
    """What the figures depend on."""
    return {
        "cores": os.cpu_count(),
        "load_average_before": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "transformers": importlib.metadata.version("transformers"),
    }


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m inference.benchmark.peers", description=__doc__)
    parser.add_argument(
        "--build", type=Path, default=ROOT / "build" / "benchmark", help="environments, data, logs"
    )
    parser.add_argument("--model", default="smollm2-135m", help="the public name at our server")
    parser.add_argument("--folder", type=Path, help="the peer's model folder; default: ours")
    parser.add_argument("--peer-dtype", default="bfloat16")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--streams", help="only these levels, such as 1,8")
    return parser.parse_args(argv)


@contextlib.contextmanager
def both(options: argparse.Namespace) -> Iterator[tuple[Running, Running]]:
    """Our server, then the peer on the folder that ours converted."""
    data_dir = options.build / "data"
    data_dir.mkdir(parents=True, exist_ok=True)
    with running(our_server(data_dir, options.model), log=options.build / "pilothouse.log") as ours:
        folder = options.folder or model_folder(data_dir)
        server = peer_server(options.build, folder, options.peer_dtype)
        with running(server, log=options.build / "transformers-serve.log") as peer:
            yield ours, peer


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, keep everything as JSON."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that both servers are stopped
    options = arguments(argv)
    wanted = {int(part) for part in options.streams.split(",")} if options.streams else None
    levels = [level for level in LEVELS if wanted is None or level.num_streams in wanted]
    report: dict[str, Any] = {"conditions": conditions()}
    with both(options) as (ours, peer):
        report["levels"] = measure(ours, peer, levels, options.repeats)
        report["peak_mib"] = {one.server.name: one.peak_bytes // 2**20 for one in (ours, peer)}
    (options.build / "peers.json").write_text(json.dumps(report, indent=1))
    print(table(report))


if __name__ == "__main__":
    main()
