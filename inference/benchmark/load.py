"""`python -m inference.benchmark.load`: how long a folder takes from process start to the first answer."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from inference.benchmark import page_cache
from inference.benchmark.folders import weight_files, write_folder
from inference.benchmark.shapes import SHAPES

MAX_COLD_SHARE = 0.05  # of the pages may be left after dropping
READING = "reading weights"


def measure_load(folder: Path, settings: dict[str, Any], *, is_cold: bool) -> dict[str, Any]:
    """One load in a process of its own: seconds by stage, and the rate at which weights came."""
    files = weight_files(folder)
    if is_cold:
        page_cache.drop(files)
    resident = page_cache.resident_share(files)
    started = time.monotonic()
    events = list(_events(folder, settings))
    stages = stage_seconds(started, events)
    num_bytes = sum(path.stat().st_size for path in files)
    return {
        "page_cache": "cold" if resident <= MAX_COLD_SHARE else "warm",
        "resident_before": round(resident, 3),
        "bytes": num_bytes,
        "seconds": stages,
        "ready_seconds": round(events[-1]["at"] - started, 2),
        "bytes_per_second": round(num_bytes / stages[READING]),
    }


def stage_seconds(started: float, events: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Each stage lasts until another begins."""
    seconds: dict[str, float] = {}
    stage, since = "starting", started
    for event in events:
        seconds[stage] = seconds.get(stage, 0.0) + event["at"] - since
        stage, since = event["stage"], event["at"]
    return {name: round(spent, 3) for name, spent in seconds.items()}


def _events(folder: Path, settings: dict[str, Any]) -> Iterator[dict[str, Any]]:
    command = [sys.executable, "-m", "inference.benchmark.load_process", str(folder), json.dumps(settings)]
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log) as process:  # noqa: S603
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith(b"{"):
                    yield json.loads(line)
        if process.returncode:
            log.seek(0)
            raise SystemExit(f"the load failed:\n{log.read().decode(errors='replace')[-3000:]}")


def say(report: dict[str, Any]) -> None:
    resident = f"{report['resident_before']:.0%} of the pages in memory before"
    stages = ", ".join(f"{stage} {seconds:g}" for stage, seconds in report["seconds"].items())
    print(f"{report['page_cache']} ({resident}): first answer after {report['ready_seconds']} s")
    size, rate = report["bytes"] / 1e9, report["bytes_per_second"] / 1e9
    print(f"  {size:.2f} GB of weights at {rate:.2f} GB/s; seconds: {stages}", flush=True)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m inference.benchmark.load", description=__doc__)
    parser.add_argument("--shape", choices=SHAPES, help="write random weights of it, where they are not yet")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--quantization")
    parser.add_argument("--max-model-len", type=int, default=4096)
    parser.add_argument("--num-blocks", type=int)
    parser.add_argument("--json", type=Path, help="also write the report here")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Once with the files dropped from memory, once with them there."""
    options = arguments(argv)
    if options.shape:
        started = time.monotonic()
        if write_folder(options.shape, options.folder):
            print(f"wrote {options.folder} in {time.monotonic() - started:.1f} s", flush=True)
    given = ("dtype", "quantization", "max_model_len", "num_blocks")
    settings = {name: getattr(options, name) for name in given if getattr(options, name) is not None}
    reports = []
    for is_cold in (True, False):
        reports.append(measure_load(options.folder, settings, is_cold=is_cold))
        say(reports[-1])
    if options.json:
        options.json.write_text(json.dumps(reports, indent=1))
    return reports


if __name__ == "__main__":
    main()
