"""The engine alone on a request list, without HTTP: tokens per second, and where a step's time goes."""

from __future__ import annotations

import argparse
import json
import os
import platform
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import wraps
from pathlib import Path
from typing import Any, get_args

import torch
import transformers

from inference.benchmark.shapes import SHAPES, random_model
from inference.benchmark.workloads import WORKLOADS, Item
from inference.config import Attention, EngineConfig, Quantization, RevisionSpec
from inference.engine.build import assemble, build_engine
from inference.engine.engine import Engine
from inference.protocol import Deadlines, Event, Finish, GenerateRequest, Owner, Sampling

OWNER = Owner(id="benchmark", salt="benchmark")
NO_DEADLINES = Deadlines(
    queue_seconds=None, first_token_seconds=None, between_tokens_seconds=None, total_seconds=None
)
DEFAULT_MODEL_LEN = 4096  # as the peers are set
WARM_UP = Item(tuple(range(3, 35)), 8)


class Stopwatch:
    """Adds up the seconds spent inside chosen methods of an engine's parts."""

    def __init__(self) -> None:
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def watch(self, stage: str, owner: object, method: str) -> None:
        """Time every call of `owner.method` under the name `stage`."""
        untimed = getattr(owner, method)

        @wraps(untimed)
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return untimed(*args, **kwargs)
            finally:
                self.seconds[stage] += time.perf_counter() - started

        setattr(owner, method, timed)


def watched(engine: Engine) -> Stopwatch:
    """A stopwatch on the stages of `step`; on a GPU, `sample` includes the wait for `run`."""
    stopwatch = Stopwatch()
    stopwatch.watch("schedule", engine.scheduler, "schedule")
    stopwatch.watch("run", engine.runner, "run")
    stopwatch.watch("sample", engine.sampler, "sample")
    stopwatch.watch("step", engine, "step")
    return stopwatch


def generate_all(engine: Engine, items: Sequence[Item]) -> list[Finish]:
    """Queue everything at once and step until all have finished."""
    finishes: list[Finish] = []

    def collect(event: Event) -> None:
        if isinstance(event, Finish):
            finishes.append(event)

    for position, item in enumerate(items):
        engine.submit(_request(engine, f"benchmark-{position}", item), collect)
    while engine.has_work:
        engine.step()
    failed = [finish.error for finish in finishes if finish.error]
    if failed:
        raise RuntimeError(f"{len(failed)} requests failed, the first with {failed[0]}")
    return finishes


def _request(engine: Engine, request_id: str, item: Item) -> GenerateRequest:
    return GenerateRequest(
        request_id=request_id,
        revision=engine.card.revision,
        token_ids=item.prompt,
        owner=OWNER,
        sampling=Sampling(max_tokens=item.num_output_tokens, temperature=0.0, ignore_eos=True),
        deadlines=NO_DEADLINES,
    )


def measure(engine: Engine, stopwatch: Stopwatch, items: Sequence[Item]) -> dict[str, Any]:
    """One run of one list."""
    stopwatch.seconds.clear()
    num_steps = engine.stats().num_steps
    started = time.perf_counter()
    finishes = generate_all(engine, items)
    seconds = time.perf_counter() - started
    num_steps = engine.stats().num_steps - num_steps
    num_output = sum(finish.usage.completion_tokens for finish in finishes)
    stages = {stage: stopwatch.seconds[stage] for stage in ("schedule", "run", "sample")}
    stages["deliver"] = stopwatch.seconds["step"] - sum(stages.values())
    return {
        "requests": len(finishes),
        "prompt_tokens": sum(finish.usage.prompt_tokens for finish in finishes),
        "cached_tokens": sum(finish.usage.cached_tokens for finish in finishes),
        "output_tokens": num_output,
        "seconds": round(seconds, 3),
        "output_tokens_per_second": round(num_output / seconds, 2),
        "steps": num_steps,
        "preemptions": sum(finish.timings.num_preemptions for finish in finishes),
        "milliseconds_per_step": {
            stage: round(1000 * spent / max(1, num_steps), 3) for stage, spent in stages.items()
        },
    }


def environment(engine: Engine) -> dict[str, Any]:
    """What a figure depends on beside the code."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "processor": platform.processor() or platform.machine(),
        "load_average": os.getloadavg()[0],
        "card": asdict(engine.card),
        "num_blocks": engine.stats().num_blocks,
    }


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m inference.benchmark", description=__doc__)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("folder", nargs="?", type=Path, help="a model folder: config, safetensors, tokenizer")
    model.add_argument("--shape", choices=SHAPES, help="instead: random weights of this shape")
    parser.add_argument("--workloads", default="chat1,chat8,chat32", help=f"of: {', '.join(WORKLOADS)}")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto")
    parser.add_argument("--quantization", choices=get_args(Quantization))
    parser.add_argument("--attention", choices=get_args(Attention), default="auto")
    parser.add_argument("--max-model-len", type=int)
    parser.add_argument("--threads", type=int, help="CPU threads of torch")
    parser.add_argument("--max-batch-tokens", type=int)
    parser.add_argument("--num-blocks", type=int)
    parser.add_argument("--prefix-caching", action="store_true", help="off by default, as in the peers")
    parser.add_argument(
        "--without", nargs="*", choices=("graphs", "fusing", "overlap"), default=(), help="switch these off"
    )
    parser.add_argument("--json", type=Path, help="also write the report here")
    return parser.parse_args(argv)


def config_of(options: argparse.Namespace) -> EngineConfig:
    """The engine's settings that the command line asks for."""
    return EngineConfig(
        dtype=options.dtype,
        attention=options.attention,
        quantization=options.quantization,
        max_model_len=options.max_model_len,
        num_threads=options.threads,
        max_batch_tokens=options.max_batch_tokens,
        num_blocks=options.num_blocks,
        prefix_caching=options.prefix_caching,
        cuda_graphs="graphs" not in options.without,
        fused_layers="fusing" not in options.without,
        overlap="overlap" not in options.without,
    )


def engine_of(options: argparse.Namespace) -> Engine:
    """Loaded and ready."""
    config = config_of(options)
    if options.folder:
        return build_engine(RevisionSpec(options.folder.name, options.folder, config))
    loaded = random_model(options.shape, config, max_model_len=config.max_model_len or DEFAULT_MODEL_LEN)
    return assemble(loaded, RevisionSpec(options.shape, Path(), config))


def main(argv: Sequence[str] | None = None, *, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Measure the lists one after the other, each `repeats` times; returns and prints the report."""
    options = arguments(argv)
    engine = engine_of(options)
    stopwatch = watched(engine)
    generate_all(engine, [WARM_UP])
    report: dict[str, Any] = {"environment": environment(engine), "workloads": {}}
    for name in options.workloads.split(","):
        items = WORKLOADS[name](engine.card.vocab_size)
        runs = [measure(engine, stopwatch, items) for _ in range(options.repeats)]
        report["workloads"][name] = runs
        for run in runs:
            speed, stages = run["output_tokens_per_second"], run["milliseconds_per_step"]
            say(f"{name}: {speed} tokens/s, ms per step {stages}")
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    return report
