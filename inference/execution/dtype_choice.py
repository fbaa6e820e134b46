"""Which dtype a CPU computes a model in, where that is left to us: by decode steps of its own shape.

A stand-in for the work would not do: a CPU may multiply bfloat16 three times as fast as float32 and yet take
four times as long for a step, because compiled layers are of float32 alone.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from transformers import PreTrainedTokenizerBase

from inference.checkpoints.model_folder import check_folder
from inference.config import EngineConfig
from inference.execution import kept_choices
from inference.execution.decode_probe import Probe, TooLarge, read_as
from inference.models.device import DTYPES, ChosenDtype, choose_device
from inference.models.generator import read_config
from inference.models.loader import LoadedModel, load_model
from inference.models.supported import why_not_batched
from inference.protocol.stats import LoadProgress
from inference.text.tokenizer import load_tokenizer

logger = logging.getLogger(__name__)

CANDIDATES = ("float32", "bfloat16")
SAFE = "float32"  # right on every CPU, and never the one that is slow for lack of instructions
GAIN = 1.15  # by which another must be faster than SAFE, which rounds less and whose answers do not vary
ROWS = (1, 8)  # of the steps: one stream, and a small batch
MIN_TURNS, MAX_TURNS = 5, 12
MAX_SECONDS = 1.5  # for the turns, once MIN_TURNS are done

Times = Mapping[str, Mapping[int, float]]  # candidate -> rows of a step -> its seconds
Clock = Callable[[], float]
Progress = Callable[[LoadProgress], None]


class Way(Protocol):
    """A model that computes in one way, or a part of it that stands for the whole."""

    def run(self, num_rows: int) -> None:
        """One decode step of so many sequences, as far as the part goes."""

    def run_head(self, num_rows: int) -> None:
        """What of it is done once a step, and not in each layer."""

    def whole(self, seconds: float, head_seconds: float) -> float:
        """What a step of the whole model takes, by the times of the two above."""


def load(
    folder: Path,
    config: EngineConfig,
    progress: Progress = lambda _: None,
    read_tokenizer: Callable[[Path], PreTrainedTokenizerBase] = load_tokenizer,
) -> LoadedModel:
    """As `load_model`, in the dtype that was measured where `config` and the device leave it open."""
    return load_model(folder, config, progress, read_tokenizer, chosen=choose(folder, config, progress))


def choose(folder: Path, config: EngineConfig, progress: Progress = lambda _: None) -> ChosenDtype | None:
    """None where there is nothing to choose. Never fails for want of a measurement."""
    device = choose_device(config)
    if config.dtype != "auto" or device.type != "cpu":
        return None
    files = check_folder(folder)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    model_config = read_config(folder)
    is_batched = config.batching and not why_not_batched(model_config)
    dtypes = {
        name: read_as(model_config, config, DTYPES[name], files.values(), is_batched=is_batched)
        for name in CANDIDATES
    }
    rows = ROWS if is_batched else (1,)
    conditions = kept_choices.conditions(model_config, config, {**dtypes, "rows": rows})
    times = kept_choices.read(conditions)
    if times is None:
        progress(LoadProgress("measuring dtypes, once", 0.0))
        times = measure(
            {
                name: lambda name=name: Probe(  # type: ignore[misc]
                    model_config, config, DTYPES[name], dtypes[name], is_batched=is_batched
                )
                for name in CANDIDATES
            },
            rows,
        )
        if len(times) == len(CANDIDATES):  # else the next start may have better luck
            kept_choices.write(conditions, times)
    chosen = decide(times)
    logger.info("dtype on this CPU: %s (%s)", chosen, described(times))
    return ChosenDtype(DTYPES[chosen], described(times))


def measure(
    ways: Mapping[str, Callable[[], Way]], rows: Sequence[int], clock: Clock = time.perf_counter
) -> dict[str, dict[int, float]]:
    """The fastest of several turns of each way that can be built and run; seconds of whole steps."""
    built = {name: way for name, make in ways.items() if (way := _tried(name, make, rows)) is not None}
    best: dict[tuple[str, int], tuple[float, float]] = {}
    started = clock()
    for turn in range(MAX_TURNS):
        for name, way in built.items():  # in turns: what else the machine does slows all of them
            for num_rows in rows:
                step, head = best.get((name, num_rows), (math.inf, math.inf))
                best[name, num_rows] = (
                    min(step, _seconds(way.run, num_rows, clock)),
                    min(head, _seconds(way.run_head, num_rows, clock)),
                )
        if turn + 1 >= MIN_TURNS and clock() - started > MAX_SECONDS:
            break
    return {
        name: {num_rows: way.whole(*best[name, num_rows]) for num_rows in rows} for name, way in built.items()
    }


def _tried(name: str, make: Callable[[], Way], rows: Sequence[int]) -> Way | None:
    """The way once it has run each kind of step: the first time may compile, and is not measured."""
    try:
        way = make()
        for num_rows in rows:
            way.run(num_rows)
            way.run_head(num_rows)
    except TooLarge as error:
        logger.info("steps in %s are not measured: %s", name, error)
        return None
    except Exception as error:  # a library's; the load itself will say what is wrong with a model
        logger.warning("steps in %s cannot be measured: %s: %s", name, type(error).__name__, error)
        return None
    return way


def _seconds(run: Callable[[int], None], num_rows: int, clock: Clock) -> float:
    started = clock()
    run(num_rows)
    return clock() - started


def decide(times: Times) -> str:
    """The fastest by the mean ratio of its steps, if it gains enough. SAFE where it was not measured with
    another, or figures are none.
    """
    safe = times.get(SAFE)
    gains = {name: gain for name, found in times.items() if safe and (gain := _gain(safe, found)) >= GAIN}
    return max(gains, key=lambda name: gains[name]) if gains else SAFE


def _gain(safe: Mapping[int, float], other: Mapping[int, float]) -> float:
    """How many times as fast as `safe`, the geometric mean over steps; 0 where that cannot be said."""
    pairs = [(seconds, other.get(num_rows, 0.0)) for num_rows, seconds in safe.items()]
    if any(not (math.isfinite(one) and one > 0) for pair in pairs for one in pair):
        return 0.0
    return math.exp(sum(math.log(mine / its) for mine, its in pairs) / len(pairs))


def described(times: Times) -> str:
    """For people: what a step of so many rows takes in each dtype."""
    if len(times) < len(CANDIDATES):
        return "not measured against another dtype"
    parts = [
        f"{name} {' and '.join(f'{1000 * seconds:.1f}' for seconds in found.values())} ms"
        for name, found in times.items()
    ]
    counts: Any = [str(num_rows) for num_rows in next(iter(times.values()))]
    plural = "s" if counts != ["1"] else ""
    return f"measured steps of {' and '.join(counts)} row{plural}: {', '.join(parts)}"
