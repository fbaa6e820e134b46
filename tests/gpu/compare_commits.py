"""Two checkouts served in turns: is the newer one slower, and where? `python -m tests.gpu.compare_commits`.

`--old` is a checkout, or a tar of one (`git archive COMMIT -o build/old.tar`). Each turn serves the same new
prompts from both, each from a fresh data directory; clients and measurement are this checkout's. Prints the
medians of all turns, their ratio, and by stage: each span of a request's timeline, how late /health is
answered meanwhile (the event loop's lag), CPU of the server's threads, and how busy the GPU was.
"""

from __future__ import annotations

import argparse
import http.client
import json
import shutil
import sqlite3
import subprocess
import tarfile
import threading
import time
from collections import defaultdict
from pathlib import Path
from statistics import mean, median

from inference.benchmark.peers.servers import running
from inference.benchmark.workloads import WORKLOADS
from tests.gpu import serve

PROBE_SECONDS = 0.05
GPU_COMMAND = ("nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "200")
Figures = dict[str, float]


class Probe:
    """Asks for /health over and over: it is answered on the event loop, so late where the loop is."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self.seconds: list[float] = []

    def __enter__(self) -> Probe:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(PROBE_SECONDS):
            connection = http.client.HTTPConnection(*self._address, timeout=30)
            began = time.monotonic()
            try:
                connection.request("GET", "/health")
                connection.getresponse().read()
            finally:
                connection.close()
            self.seconds.append(time.monotonic() - began)


class GpuUse:
    """How much of the time the GPU computed, by nvidia-smi; nothing where there is none."""

    def __init__(self) -> None:
        self.percents: list[float] = []
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> GpuUse:
        if shutil.which(GPU_COMMAND[0]):
            self._process = subprocess.Popen(GPU_COMMAND, stdout=subprocess.PIPE)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()
            said, _ = self._process.communicate()
            self.percents = [float(line) for line in said.split() if line.isdigit()]


def unpacked(old: Path, work: Path) -> Path:
    """The checkout's folder."""
    if old.is_dir():
        return old.resolve()
    folder = work / "old"
    with tarfile.open(old) as archive:
        archive.extractall(folder, filter="data")
    return folder


def stages(database: Path) -> Figures:
    """Milliseconds of a request in each span of its timeline, median and 95th percentile."""
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    rows = connection.execute("SELECT spans FROM usage_usagerecord").fetchall()
    connection.close()
    by_name: defaultdict[str, list[float]] = defaultdict(list)
    for (spans,) in rows:
        own: defaultdict[str, float] = defaultdict(float)
        for span in json.loads(spans):
            own[span["name"]] += 1000 * (span["end"] - span["start"])
        for name, milliseconds in own.items():
            by_name[name].append(milliseconds)
    found = {}
    for name, values in by_name.items():
        found[f"{name} ms p50"] = median(values)
        found[f"{name} ms p95"] = sorted(values)[len(values) * 95 // 100]
    return found


def serve_once(options: argparse.Namespace, root: Path, work: Path) -> Figures:
    """One server of this checkout, from nothing to its end."""
    options = argparse.Namespace(**{**vars(options), "root": root})
    folder = serve.prepare(options, work)
    vocab_size = min(serve.vocabulary_of(folder), 128_000)
    items = WORKLOADS[options.workload](vocab_size)
    with (
        running(serve.server_of(options, work), log=work / "server.log") as server,
        Probe(server.endpoint.address) as probe,
        GpuUse() as gpu,
    ):
        runs = serve.measure_served(options, server, items, vocab_size=vocab_size)
    best = max(runs, key=lambda one: one["tokens_per_second"])
    lags = sorted(1000 * seconds for seconds in probe.seconds)
    figures = {"tokens per second": best["tokens_per_second"]}
    for name in ("first_token_ms", "between_chunks_ms"):
        figures |= {f"{name} {percent}": value for percent, value in best[name].items()}
    figures |= {"health ms p50": median(lags), "health ms p95": lags[len(lags) * 95 // 100]}
    threads = best["server_cpu"]["threads_percent"]
    figures["event loop CPU %"] = threads.pop("main", 0)
    figures["busiest other thread CPU %"] = max(threads.values(), default=0)
    figures["process CPU %"] = best["server_cpu"]["process_percent"]
    if gpu.percents:
        figures["GPU busy %"] = mean(gpu.percents)
    (database,) = (work / "data").glob("*.sqlite3")
    return figures | stages(database)


def table(old: list[Figures], new: list[Figures]) -> str:
    """Medians of the turns, and the newer one's share of the older one's."""
    names = dict.fromkeys(name for turn in (*new, *old) for name in turn)
    lines = [f"{'':34}{'old':>12}{'new':>12}{'ratio':>8}"]
    for name in names:
        before, after = ([turn[name] for turn in turns if name in turn] for turns in (old, new))
        cells = [f"{median(values):12,.2f}" if values else f"{'-':>12}" for values in (before, after)]
        is_known = before and after and median(before)
        cells.append(f"{median(after) / median(before):8.3f}" if is_known else f"{'-':>8}")
        lines.append(f"{name:34}" + "".join(cells))
    return "\n".join(lines)


def main() -> None:
    parser = serve.options_of_a_load("python -m tests.gpu.compare_commits", __doc__ or "")
    parser.add_argument("--old", type=Path, required=True, help="a checkout, or a tar of one")
    parser.add_argument("--turns", type=int, default=3)
    parser.set_defaults(repeats=1)
    options = parser.parse_args()
    work = options.work or serve.scratch()
    options.folder = options.folder or work / "model"
    turns: dict[str, list[Figures]] = {"old": [], "new": []}
    try:
        roots = {"old": unpacked(options.old, work), "new": options.root}
        for turn in range(options.turns):
            for name in sorted(roots, reverse=bool(turn % 2)):  # none is always the first
                place = work / f"{name}-{turn}"
                turns[name].append(serve_once(options, roots[name], place))
                serve.say(f"turn {turn + 1}, {name}: {json.dumps(turns[name][-1])}")
                shutil.rmtree(place)
    finally:
        if options.work is None:
            shutil.rmtree(work, ignore_errors=True)
    if options.json:
        options.json.write_text(json.dumps(turns, indent=1))
    print(table(turns["old"], turns["new"]))


if __name__ == "__main__":
    main()
