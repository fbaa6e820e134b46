"""Times products of one token over shapes of a program: `python -m tests.gpu.sweeps.single_token`, on a GPU.

Prints microseconds for each layer of an 8B model, launched one after the other as a decode step does, with
the share that reading the weight takes of it at the copy rate.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from inference.kernels.single_token import Norm, Shape, single_token_product


@dataclass(frozen=True)
class Layer:
    """A product of a decode step, and what goes with it."""

    num_outputs: int
    num_inputs: int
    norms: bool = False
    adds: bool = False
    gates: bool = False


LAYERS = {
    "qkv": Layer(6144, 4096, norms=True),
    "o": Layer(4096, 4096, adds=True),
    "gate_up": Layer(28672, 4096, norms=True, gates=True),
    "down": Layer(4096, 14336, adds=True),
    "head": Layer(128256, 4096, norms=True),
}
COPY_BYTES_PER_SECOND = 4.2e12
BYTES_OF_COPIES = 5e8  # of one weight, several times what the cache holds
NUM_REPLAYS = 9
SHAPES = [Shape(outputs, warps) for outputs, warps in itertools.product((2, 4, 8), (1, 2, 4, 8))]


def random_weight(layer: Layer) -> Tensor:
    shape = layer.num_outputs, layer.num_inputs
    return torch.randn(shape, device="cuda", dtype=torch.bfloat16) * 0.02


def launch(layer: Layer, weight: Tensor, shape: Shape) -> Callable[[], object]:
    """One product of its own token, ready to be called."""

    def row(width: int) -> Tensor:
        return torch.randn(1, width, device="cuda", dtype=torch.bfloat16)

    x = row(layer.num_inputs)
    norm = Norm(row(layer.num_inputs)[0], 1e-5) if layer.norms else None
    residual = row(layer.num_outputs) if layer.adds else None
    return lambda: single_token_product(
        x, weight, norm=norm, residual=residual, gates=layer.gates, shape=shape
    )


def seconds(calls: list[Callable[[], object]]) -> float:
    """Of one call, the median of replays of all in one graph."""
    for call in calls:
        call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for call in calls:
            call()
    times = []
    for _ in range(NUM_REPLAYS):
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        graph.replay()
        ended.record()
        ended.synchronize()
        times.append(begun.elapsed_time(ended) / 1e3 / len(calls))
    return statistics.median(times)


def swept(name: str) -> None:
    layer = LAYERS[name]
    num_bytes = 2 * layer.num_outputs * layer.num_inputs
    weights = [random_weight(layer) for _ in range(max(2, round(BYTES_OF_COPIES / num_bytes)))]
    found = {shape: seconds([launch(layer, weight, shape) for weight in weights]) * 1e6 for shape in SHAPES}
    best = sorted(found, key=lambda shape: found[shape])[:4]
    share = num_bytes / COPY_BYTES_PER_SECOND * 1e6 / found[best[0]]
    text = ", ".join(f"{shape.outputs} outputs {shape.warps} warps {found[shape]:.1f}" for shape in best)
    x = torch.randn(1, layer.num_inputs, device="cuda", dtype=torch.bfloat16)
    cublas = seconds([partial(F.linear, x, weight) for weight in weights]) * 1e6
    print(f"{name:7} {share:4.0%} of the copy rate; us: {text}; cuBLAS alone {cublas:.1f}", flush=True)


def main() -> None:
    for name in LAYERS:
        swept(name)


if __name__ == "__main__":
    main()
