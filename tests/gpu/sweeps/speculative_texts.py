"""`python -m tests.gpu.sweeps.speculative_texts [EMBEDDING_STD]`: what drafts gain and cost.

Llama-3.1-8B's shape in bfloat16, random weights that say a passage over and over: copied lists, where drafts
hold, and lists of random ids with weights that never repeat, where they must cost nothing.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from inference.benchmark.measure import generate_all
from inference.benchmark.shapes import random_model
from inference.benchmark.workloads import WORKLOADS, Item, copied
from inference.config import EngineConfig, RevisionSpec
from inference.execution.build import assemble
from inference.models.loader import LoadedModel
from inference.protocol.requests import Owner
from inference.scheduling.engine import Engine

REPEATS = 3
CONFIG = EngineConfig(
    device="cuda",
    dtype="bfloat16",
    max_num_seqs=64,
    num_blocks=4000,
    prefix_caching=False,
    max_model_len=2048,
)
WARM_UP = [Item(tuple(range(3, 35)), 8)] * 2


def engine_of(loaded: LoadedModel, num_draft_tokens: int) -> Engine:
    config = replace(CONFIG, num_draft_tokens=num_draft_tokens)
    engine = assemble(loaded, RevisionSpec("drafts", Path(), config))
    generate_all(engine, WARM_UP, Owner("warm-up", "warm-up"))
    return engine


def timed(engine: Engine, items: list[Item], number: int) -> tuple[float, int, int, int]:
    """Seconds, steps, drafted tokens and accepted ones."""
    before = engine.stats()
    torch.cuda.synchronize()
    started = time.perf_counter()
    generate_all(engine, items, Owner("drafts", f"run {number}"))
    seconds = time.perf_counter() - started
    after = engine.stats()
    return (
        seconds,
        after.num_steps - before.num_steps,
        after.num_drafted_tokens - before.num_drafted_tokens,
        after.num_accepted_tokens - before.num_accepted_tokens,
    )


def compare(engines: dict[int, Engine], lists: dict[str, list[Item]]) -> list[str]:
    """A line for each list: medians of runs in turns."""
    lines = []
    for name, items in lists.items():
        runs: dict[int, list[Any]] = {number: [] for number in engines}
        for repeat in range(REPEATS):
            for number, engine in engines.items():
                runs[number].append(timed(engine, items, repeat))
        num_tokens = sum(item.num_output_tokens for item in items)
        plain = statistics.median(run[0] for run in runs[0])
        for number, found in runs.items():
            seconds = statistics.median(run[0] for run in found)
            _, num_steps, num_drafted, num_accepted = found[-1]
            right = f", accepted {num_accepted / num_drafted:.0%} of {num_drafted}" if num_drafted else ""
            lines.append(
                f"{name:10} drafts {number}: {num_tokens / seconds:8.1f} tokens/s, "
                f"x{plain / seconds:.2f}, {num_steps} steps{right}"
            )
    return lines


def engines_of(embedding_std: float | None) -> dict[int, Engine]:
    loaded = random_model("llama-8b", CONFIG, max_model_len=2048, embedding_std=embedding_std)
    return {number: engine_of(loaded, number) for number in (0, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "embedding_std", nargs="?", type=float, default=1.0, help="the larger, the more drafts are accepted"
    )
    options = parser.parse_args()
    lines = [f"embedding_std {options.embedding_std}:"]
    lists = {f"copy{number}": copied(number, num_output_tokens=128) for number in (1, 8, 32)}
    lines += compare(engines_of(options.embedding_std), lists)
    gc.collect()
    torch.cuda.empty_cache()
    lines.append("weights that repeat nothing on purpose:")
    plain = {"decode1": WORKLOADS["decode1"](128256), "decode8": WORKLOADS["decode8"](128256)}
    lines += compare(engines_of(None), plain)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
