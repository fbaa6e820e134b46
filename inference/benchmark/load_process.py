"""`python -m inference.benchmark.load_process FOLDER SETTINGS`: loads a folder and says how far it is.

One JSON line an event, at the system's monotonic clock, which the process that waits for it shares.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path


def say(stage: str, fraction: float = 0.0) -> None:
    print(json.dumps({"stage": stage, "fraction": fraction, "at": time.monotonic()}), flush=True)


def main() -> None:
    """Load, and answer one request: what cannot answer is not ready."""
    folder, settings = Path(sys.argv[1]), json.loads(sys.argv[2])
    say("importing")
    from inference.benchmark.measure import generate_all
    from inference.benchmark.workloads import Item
    from inference.config import EngineConfig, RevisionSpec
    from inference.execution.build import build_engine
    from inference.protocol.requests import Owner
    from inference.protocol.stats import LoadProgress

    def show(progress: LoadProgress) -> None:
        say(progress.stage, progress.fraction)

    engine = build_engine(RevisionSpec("loaded", folder, EngineConfig(**settings)), show)
    (finish,) = generate_all(engine, [Item((3, 4, 5), 2)], Owner("benchmark", salt="load"))
    if finish.error:
        raise SystemExit(f"the first request failed: {finish.error}")
    say("answered", 1.0)


if __name__ == "__main__":
    main()
