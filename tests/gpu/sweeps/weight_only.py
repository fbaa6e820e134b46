"""Times products with int8 and int4 weights over tilings: `python -m tests.gpu.sweeps.weight_only`, on a GPU.

Prints the quickest of each weight of an 8B model and number of tokens, with the share of the time that its
bytes or its operations take at the least, and how many times faster than bf16 it is; last, the lines for the
tables of inference/kernels/tilings.py. Weights are read from memory, not from the cache: there are many.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import torch
import torch.nn.functional as F
import triton

from inference.kernels.rows import QuantizedRows
from inference.kernels.tilings import CLASSES, TILINGS, Kind, Tiling, processor_of
from inference.kernels.weight_only import int4_product, int8_product
from inference.quantization import weight_only_cuda
from inference.quantization.w8a8 import MOST_EXACT_ROWS

WEIGHTS = {
    "qkv": (6144, 4096),
    "o": (4096, 4096),
    "gate_up": (28672, 4096),
    "down": (4096, 14336),
    "head": (128256, 4096),
}
TOKENS = (1, 8, 32, 256, 64, 16, 4, 128, 512, 2048)  # in the order of what matters if time runs out
GROUP = 128
COPY_BYTES_PER_SECOND = 4.2e12
OPERATIONS_PER_SECOND = {"int8": 776e12, "int4": 776e12, "w8a8": 1500e12}
BYTES_OF_COPIES = 2.4e8  # of one weight, several times what the cache holds
SPLITS = (1, 2, 3, 4, 6, 8)
NUM_REFINED = 3  # tilings that other splits are tried for
MOST_TILED = 512
SMALL = 1024  # inputs and outputs of what is multiplied to compile


def tilings(kind: Kind, num_tokens: int) -> Iterator[Tiling]:
    """What is worth a try: tiles as large as the tokens, of as many bytes in flight as fit."""
    yield from TILINGS[kind, next((upper for upper in CLASSES if num_tokens <= upper), CLASSES[-1])]
    scales_first = (False, True) if kind == "int4" else (False,)
    if num_tokens <= 16:
        tile = 8 if num_tokens <= 8 and kind != "w8a8" else 16
        for outputs, inputs, warps, stages in (
            (32, 256, 2, 4), (64, 128, 2, 6), (64, 256, 2, 4), (64, 128, 4, 5), (128, 128, 4, 4),
            (128, 128, 2, 4), (32, 512, 2, 3),
        ):  # fmt: skip
            yield Tiling(outputs, tile, inputs, warps=warps, stages=stages)
    elif num_tokens <= 64:
        tile = 32 if num_tokens <= 32 else 64
        for outputs, inputs, warps, stages in (
            (64, 128, 2, 5), (64, 128, 4, 5), (64, 256, 4, 3), (128, 128, 4, 4), (128, 128, 8, 4),
            (128, 64, 4, 5),
        ):  # fmt: skip
            yield Tiling(outputs, tile, inputs, warps=warps, stages=stages)
    else:
        for first in scales_first:
            for outputs, tile, inputs, warps, stages in (
                (64, 128, 128, 4, 4), (128, 128, 128, 8, 3), (128, 128, 128, 4, 3), (128, 256, 128, 8, 3),
                (64, 256, 128, 4, 3), (128, 64, 128, 4, 4), (256, 128, 128, 8, 3),
            ):  # fmt: skip
                yield Tiling(outputs, tile, inputs, warps=warps, stages=stages, scales_first=first)
                if kind == "int8":
                    yield Tiling(outputs, tile, 64, warps=warps, stages=5)


@dataclass
class Case:
    """Some copies of a weight, and tokens."""

    kind: Kind
    num_tokens: int
    weights: list[tuple[torch.Tensor, torch.Tensor]]
    x: Any

    def tiled(self, tiling: Tiling) -> Callable[[int], torch.Tensor]:
        product: Any = int4_product if self.kind == "int4" else int8_product
        return lambda index: product(self.x, *self.weights[index], None, tiling)

    def served(self, index: int) -> torch.Tensor:
        """As `weight_only_cuda` has it."""
        if self.kind == "w8a8":
            return weight_only_cuda.multiply_int8_rows(self.x, *self.weights[index])
        multiply = {"int8": weight_only_cuda.multiply_int8, "int4": weight_only_cuda.multiply_int4}[self.kind]
        return multiply(self.x, *self.weights[index])


def random_weights(kind: str, num_outputs: int, num_inputs: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """As many as take BYTES_OF_COPIES."""
    on = {"device": "cuda"}
    num_bytes = num_outputs * num_inputs // (2 if kind == "int4" else 1)
    made = []
    for _ in range(max(2, round(BYTES_OF_COPIES / num_bytes))):
        if kind == "int4":
            packed = torch.randint(0, 256, (num_outputs, num_inputs // 2), dtype=torch.uint8, **on)
            made.append((packed, torch.rand(num_inputs // GROUP, num_outputs, **on).bfloat16() * 0.01))
        else:
            weight = torch.randint(-127, 128, (num_outputs, num_inputs), dtype=torch.int8, **on)
            made.append((weight, torch.rand(num_outputs, 1, **on) * 0.01))
    return made


def random_tokens(kind: str, num_tokens: int, num_inputs: int) -> Any:
    x = torch.randn(num_tokens, num_inputs, device="cuda", dtype=torch.bfloat16)
    if kind != "w8a8":
        return x
    values = torch.randint(-127, 128, x.shape, device="cuda", dtype=torch.int8)
    return QuantizedRows(values, torch.rand(num_tokens, 1, device="cuda") * 0.01, torch.bfloat16)


def microseconds(run: Callable[[int], torch.Tensor], num_copies: int) -> float:
    """Of one product, in a graph of one for each copy."""
    run(0)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for index in range(num_copies):
            run(index)
    graph.replay()
    found = []
    for _ in range(5):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) * 1000 / num_copies)
    return statistics.median(found)


def attempt(run: Callable[[int], torch.Tensor], num_copies: int, name: object) -> float:
    """Infinite where the processor lacks the registers or the memory, or Triton fails, which is told."""
    try:
        return microseconds(run, num_copies)
    except triton.runtime.errors.OutOfResources:
        return float("inf")
    except Exception as error:  # a sweep goes on: what fails here is not chosen
        print(f"{name} fails: {type(error).__name__} {str(error)[:200]}", flush=True)
        return float("inf")


def best_tiling(case: Case) -> tuple[float, Tiling]:
    """First every tiling with the splits of the rule, then the best with others."""
    processor = processor_of(case.weights[0][0].device)
    num_outputs = len(case.weights[0][0])
    num_inputs = (case.x.values if case.kind == "w8a8" else case.x).shape[1]
    found: dict[Tiling, float] = {}

    def measure(tiling: Tiling) -> None:
        if tiling not in found:
            found[tiling] = attempt(case.tiled(tiling), len(case.weights), (case.kind, tiling))

    for tiling in dict.fromkeys(tilings(case.kind, case.num_tokens)):
        fitting = tiling.fitting(case.kind, processor)
        measure(fitting.busy(case.kind, case.num_tokens, num_outputs, num_inputs, processor))
    for tiling in sorted(found, key=lambda one: found[one])[:NUM_REFINED]:
        for splits in SPLITS:
            num_programs = splits * -(-num_outputs // tiling.outputs) * -(-case.num_tokens // tiling.tokens)
            is_sensible = num_programs <= 8 * processor.num_multiprocessors
            if splits == 1 or (is_sensible and num_inputs >= 2 * splits * tiling.inputs):
                measure(replace(tiling, splits=splits))
    chosen = min(found, key=lambda one: found[one])
    return found[chosen], chosen


def compile_some(some: list[tuple[Kind, Tiling]]) -> None:
    """In a process of its own, into the cache on disk: by a small product, whole and split."""
    for kind, tiling in some:
        case = Case(kind, 16, [small_weight(kind)], random_tokens(kind, 16, SMALL))
        for splits in (1, 2):
            try:
                case.tiled(replace(tiling, splits=splits))(0)
            except Exception as error:  # told when it is measured
                del error


def small_weight(kind: str) -> tuple[torch.Tensor, torch.Tensor]:
    if kind == "int4":
        scale = torch.zeros(SMALL // GROUP, SMALL, dtype=torch.bfloat16, device="cuda")
        return torch.zeros(SMALL, SMALL // 2, dtype=torch.uint8, device="cuda"), scale
    return torch.zeros(SMALL, SMALL, dtype=torch.int8, device="cuda"), torch.zeros(SMALL, 1, device="cuda")


def compile_all(kinds: list[Kind], num_tokens: list[int]) -> None:
    """Every tiling, by several processes."""
    processor = processor_of(torch.device("cuda", 0))
    wanted = {
        (kind, tiling.fitting(kind, processor))
        for kind in kinds
        for tokens in num_tokens
        if tokens <= MOST_TILED
        for tiling in tilings(kind, tokens)
    }
    ordered = sorted(wanted, key=str)
    num_workers = max(1, min(14, (os.cpu_count() or 2) - 2))
    shares = [share for share in (ordered[index::num_workers] for index in range(num_workers)) if share]
    started = time.monotonic()
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(num_workers, mp_context=context) as pool:
        list(pool.map(compile_some, shares))
    print(f"{2 * len(ordered)} kernels compiled in {time.monotonic() - started:.0f} s", flush=True)


def floor_microseconds(kind: Kind, num_tokens: int, num_outputs: int, num_inputs: int) -> float:
    """What reading the weights takes, or multiplying, whichever is longer."""
    num_bytes = num_outputs * num_inputs * ((0.5 + 2 / GROUP) if kind == "int4" else 1)
    operations = 2 * num_tokens * num_outputs * num_inputs
    return max(num_bytes / COPY_BYTES_PER_SECOND, operations / OPERATIONS_PER_SECOND[kind]) * 1e6


class Table:
    """What was found, and the lines that it makes for the tables."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def measure(self, kind: Kind, name: str, num_tokens: int, case: Case, exact: float) -> str:
        """How long the product takes as it is served, and at best."""
        num_outputs, num_inputs = WEIGHTS[name]
        served = attempt(case.served, len(case.weights), (kind, name, num_tokens, "served"))
        told = served
        if num_tokens <= MOST_TILED:
            best, tiling = best_tiling(case)
            told = best
            if num_tokens in CLASSES and best < float("inf"):
                self.lines.append(f'("{kind}", {num_outputs}, {num_inputs}, {num_tokens}): {short(tiling)},')
        share = floor_microseconds(kind, num_tokens, num_outputs, num_inputs) / told
        return f"{name} {told:.1f} us {share:.0%} x{exact / told:.2f} (now x{exact / served:.2f})"


def short(tiling: Tiling) -> str:
    last = ", scales_first=True" if tiling.scales_first else ""
    numbers = (tiling.outputs, tiling.tokens, tiling.inputs, tiling.splits, tiling.warps, tiling.stages)
    return f"Tiling({', '.join(map(str, numbers))}{last})"


def exact_microseconds(name: str, num_tokens: list[int]) -> dict[int, float]:
    """Of the product with bf16 weights."""
    num_outputs, num_inputs = WEIGHTS[name]
    num_copies = max(2, round(BYTES_OF_COPIES / (2 * num_outputs * num_inputs)))
    on = {"device": "cuda", "dtype": torch.bfloat16}
    weights = [torch.randn(num_outputs, num_inputs, **on) for _ in range(num_copies)]
    found = {}
    for tokens in num_tokens:
        x = torch.randn(tokens, num_inputs, **on)
        found[tokens] = attempt(lambda index, x=x: F.linear(x, weights[index]), num_copies, (name, tokens))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kinds", nargs="*", choices=get_args(Kind), default=list(get_args(Kind)))
    parser.add_argument("--weights", nargs="*", choices=WEIGHTS, default=list(WEIGHTS))
    parser.add_argument("--tokens", nargs="*", type=int, default=list(TOKENS))
    parser.add_argument("--seconds", type=float, default=80, help="nothing new is begun after that long")
    parser.add_argument("--table", type=Path, help="where to write the lines for the tables, too")
    options = parser.parse_args()
    started = time.monotonic()
    compile_all(options.kinds, options.tokens)
    exact = {name: exact_microseconds(name, options.tokens) for name in options.weights}
    table, left_out = Table(), []
    for num_tokens in options.tokens:
        for kind in options.kinds:
            told = []
            if kind == "w8a8" and num_tokens <= MOST_EXACT_ROWS:
                continue
            for name in options.weights:
                if time.monotonic() - started > options.seconds:
                    left_out.append(f"{kind} {name} {num_tokens}")
                    continue
                num_outputs, num_inputs = WEIGHTS[name]
                weights = random_weights(kind, num_outputs, num_inputs)
                case = Case(kind, num_tokens, weights, random_tokens(kind, num_tokens, num_inputs))
                told.append(table.measure(kind, name, num_tokens, case, exact[name][num_tokens]))
            print(f"{kind} M={num_tokens}: " + "; ".join(told), flush=True)
    print(f"bf16 us: { {name: {m: round(us, 1) for m, us in by.items()} for name, by in exact.items()} }")
    print(f"{time.monotonic() - started:.0f} s; left out: {', '.join(left_out) or 'nothing'}")
    if options.table:
        options.table.write_text("\n".join(table.lines) + "\n")
    else:
        print("\n".join(table.lines))


if __name__ == "__main__":
    main()
