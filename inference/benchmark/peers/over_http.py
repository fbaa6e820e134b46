"""Our server and others on one machine, model and load, alternating, each alone while it is measured."""

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
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from inference.benchmark.http_load import Load, drive
from inference.benchmark.peers.commands import PEERS, ROOT, our_server
from inference.benchmark.peers.llama_cpp_environment import PeerMissing
from inference.benchmark.peers.servers import Running, ServerDied, running


@dataclass(frozen=True, slots=True)
class Level:
    """Concurrent streams, requests of one measurement, and the target ratios by peer."""

    num_streams: int
    num_requests: int
    wanted: Mapping[str, float]  # by the peer's name


LEVELS = (
    Level(1, 6, {"llama_cpp.server": 1.0}),
    Level(8, 32, {"transformers serve": 1.7}),
    Level(32, 96, {"transformers serve": 2.2}),
)


def measure(servers: Sequence[Running], levels: Sequence[Level], repeats: int) -> list[dict[str, Any]]:
    """Each level: a warm-up of all, then alternating, another one first each time. Ours is `servers[0]`."""
    results = []
    for level in levels:
        outcomes: dict[str, list[dict[str, Any]]] = {one.server.name: [] for one in servers}
        for repeat in range(repeats + 1):  # the first one warms up
            num_requests = level.num_requests if repeat else level.num_streams
            load = Load(level.num_streams, num_requests, seed=1000 * level.num_streams + repeat)
            first = repeat % len(servers)
            for one in (*servers[first:], *servers[:first]):
                with one.alone(*(other for other in servers if other is not one)):
                    outcome = asyncio.run(one.watched(drive(one.endpoint, load)))
                if errors := outcome["errors"]:
                    raise one.died(f"failed in requests: {errors}")
                if repeat:
                    outcomes[one.server.name].append(outcome)
                    print(f"{one.server.name}: {json.dumps(outcome)}", flush=True)
        results.append(summary(level, outcomes))
    return results


def summary(level: Level, outcomes: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Medians, and our ratio to each peer's."""
    speeds = {
        name: statistics.median(one["tokens_per_second"] for one in runs) for name, runs in outcomes.items()
    }
    (_, ours), *peers = speeds.items()
    return {
        "streams": level.num_streams,
        "ours": ours,
        "peers": [
            {
                "name": name,
                "speed": speed,
                "ratio": round(ours / speed, 2) if speed else None,
                "wanted": level.wanted.get(name),
            }
            for name, speed in peers
        ],
        "runs": dict(outcomes),
    }


def table(report: dict[str, Any]) -> str:
    """The report as the Markdown table of docs/benchmarks.md."""
    rows = ["| streams | ours, tok/s | peer | its tok/s | ratio | wanted |", "|---|---|---|---|---|---|"]
    rows += [
        f"| {level['streams']} | {level['ours']} | {peer['name']} | {peer['speed']} | {peer['ratio']} |"
        f" {peer['wanted'] or ''} |"
        for level in report["levels"]
        for peer in level["peers"]
    ]
    peaks = ", ".join(f"{name} {peak} MiB" for name, peak in report["peak_mib"].items())
    ready = ", ".join(f"{name} {seconds} s" for name, seconds in report["ready_seconds"].items())
    said = f"Peak resident memory: {peaks}. Ready after {ready}.", f"Conditions: {report['conditions']}"
    return "\n".join([*rows, "", *said])


def conditions(options: argparse.Namespace) -> dict[str, Any]:
    """The environment of the figures."""
    return {
        "settings": options.setting,
        "cores": os.cpu_count(),
        "load_average_before": [round(load, 2) for load in os.getloadavg()],
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "transformers": importlib.metadata.version("transformers"),
    }


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m inference.benchmark.peers.over_http", description=__doc__
    )
    parser.add_argument(
        "--build", type=Path, default=ROOT / "build" / "benchmark", help="environments, data, logs"
    )
    parser.add_argument("--model", default="smollm2-135m", help="the public name at our server")
    parser.add_argument("--setting", action="append", default=[], help="of our server: QUANTIZATION=int8")
    parser.add_argument("--peer", action="append", choices=PEERS, help="again for another; default: all")
    parser.add_argument("--folder", type=Path, help="transformers' model folder; default: ours")
    parser.add_argument("--gguf", type=Path, help="llama.cpp's file; default: what ours was converted from")
    parser.add_argument("--peer-dtype", default="bfloat16", help="of transformers")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--streams", help="only these levels, such as 1,8")
    return parser.parse_args(argv)


@contextlib.contextmanager
def all_running(options: argparse.Namespace) -> Iterator[list[Running]]:
    """Our server, then the peers; one that is not there is left out, and said so."""
    data_dir = options.build / "data"
    data_dir.mkdir(parents=True, exist_ok=True)
    settings = dict(setting.split("=", 1) for setting in options.setting)
    ours = our_server(data_dir, options.model, settings)
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(running(ours, log=options.build / "pilothouse.log"))]
        for peer in options.peer or PEERS:
            try:
                server = PEERS[peer](options)
            except PeerMissing as error:
                print(f"{peer} is left out: {error}", flush=True)
                continue
            servers.append(stack.enter_context(running(server, log=options.build / f"{peer}.log")))
        yield servers


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print the table, keep everything as JSON."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all servers are stopped
    options = arguments(argv)
    wanted = {int(part) for part in options.streams.split(",")} if options.streams else None
    levels = [level for level in LEVELS if wanted is None or level.num_streams in wanted]
    report: dict[str, Any] = {"conditions": conditions(options)}
    try:
        with all_running(options) as servers:
            report["levels"] = measure(servers, levels, options.repeats)
            report["ready_seconds"] = {one.server.name: round(one.ready_seconds, 1) for one in servers}
            report["peak_mib"] = {one.server.name: one.peak_bytes // 2**20 for one in servers}
    except ServerDied as error:
        raise SystemExit(str(error)) from error
    (options.build / "peers.json").write_text(json.dumps(report, indent=1))
    print(table(report))


if __name__ == "__main__":
    main()
