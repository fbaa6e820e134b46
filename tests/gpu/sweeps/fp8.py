"""Times fp8 products over their ways and tiles: `python -m tests.gpu.sweeps.fp8 [--rows 1,16,...]`, on a GPU.

For each number of rows: a table of layers and ways in microseconds, with the share of what the machine could
do at best; then, of the ways that serve a whole layer, the quickest. What is chosen from it stands in
inference/kernels/fp8.py.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import triton
from torch import Tensor

from inference.kernels import fp8
from inference.kernels.fp8 import Tiles
from inference.kernels.rows import QuantizedRows, quantize_rows
from inference.quantization.fp8 import DTYPE

LAYERS = {  # Llama-3.1-8B: outputs, width
    "qkv": (6144, 4096),
    "o": (4096, 4096),
    "gate_up": (28672, 4096),
    "down": (4096, 14336),
    "head": (128256, 4096),
}
DECODER = ("qkv", "o", "gate_up", "down")
NUM_ROWS = (1, 8, 16, 32, 64, 128, 256, 2048, 4096)
COPY_BYTES_PER_SECOND, FLOPS = 4.2e12, 1.5e15
CACHE_BYTES = 120e6  # of weights in turn: more than twice what the GPU's cache holds
REPLAYS = 7
NUM_BEST = 4

Way = Callable[["Layer", "Inputs", int], Tensor]  # the last: which copy of the weight


@dataclass(frozen=True, slots=True)
class Layer:
    """Copies of one weight, so that none is still in the cache when its turn comes."""

    name: str
    values: list[Tensor]
    scale: Tensor
    counters: Tensor

    @classmethod
    def random(cls, name: str) -> Layer:
        num_outputs, width = LAYERS[name]
        copies = max(1, -(-int(CACHE_BYTES) // (num_outputs * width)))
        values = [
            torch.randint(0, 120, (num_outputs, width), dtype=torch.uint8, device="cuda").view(DTYPE)
            for _ in range(copies)
        ]
        scale = torch.rand(num_outputs, 1, device="cuda")
        return cls(name, values, scale, torch.zeros(2**16, dtype=torch.int32, device="cuda"))

    def floor(self, num_rows: int) -> float:
        """Seconds that reading the weight, or multiplying, takes at the least."""
        num_outputs, width = LAYERS[self.name]
        num_bytes = num_outputs * width + num_rows * (width + 2 * num_outputs)
        return max(num_bytes / COPY_BYTES_PER_SECOND, 2 * num_rows * num_outputs * width / FLOPS)


@dataclass(frozen=True, slots=True)
class Inputs:
    """The same rows as floats and in fp8."""

    floats: Tensor
    rows: QuantizedRows

    @classmethod
    def random(cls, num_rows: int, width: int) -> Inputs:
        floats = torch.randn(num_rows, width, device="cuda", dtype=torch.bfloat16)
        return cls(floats, quantize_rows(floats, DTYPE))


def vector(options: dict[str, int], layer: Layer, inputs: Inputs, copy: int) -> Tensor:
    fp8.VECTOR = options
    return fp8.vector_product(inputs.floats, layer.values[copy], layer.scale)


def tiled(tiles: Tiles, programs: int, layer: Layer, inputs: Inputs, copy: int) -> Tensor:
    num_outputs, width = LAYERS[layer.name]
    if programs:
        tiles = fp8.split(tiles, num_outputs, width, programs)
    return fp8.tiled_product(inputs.rows, layer.values[copy], layer.scale, layer.counters, tiles)


def by_rows(layer: Layer, inputs: Inputs, copy: int) -> Tensor:
    return fp8.torch_product(inputs.rows, layer.values[copy], layer.scale)


def one_scale(layer: Layer, inputs: Inputs, copy: int) -> Tensor:
    """What torch could do without a scale per row and output: to compare with, no way of ours."""
    one = layer.scale[0, 0]
    return torch._scaled_mm(
        inputs.rows.values,
        layer.values[copy].t(),
        scale_a=one,
        scale_b=one,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


def chosen(layer: Layer, inputs: Inputs, copy: int) -> Tensor:
    if len(inputs.floats) <= fp8.VECTOR_ROWS:
        return fp8.vector_product(inputs.floats, layer.values[copy], layer.scale)
    return fp8.product(inputs.rows, layer.values[copy], layer.scale, layer.counters)


def ways(num_rows: int) -> Iterator[tuple[str, Way]]:
    yield "CHOSEN", chosen
    yield "torch, scales by row", by_rows
    yield "(torch, one scale)", one_scale
    if num_rows <= 8:
        for outputs, depth, warps in ((2, 1024, 4), (4, 512, 4), (4, 1024, 4), (8, 512, 4), (4, 2048, 8)):
            options = {"OUTPUTS": outputs, "DEPTH": depth, "num_warps": warps}
            yield f"vector {outputs} x {depth}, {warps} warps", partial(vector, options)
    multiprocessors = torch.cuda.get_device_properties("cuda").multi_processor_count
    for tiles in some_tiles(num_rows):
        is_few = num_rows <= tiles.rows
        for per_multiprocessor in (1, 2, 4) if is_few else (0,):
            name = f"{tiles.rows} x {tiles.outputs} x {tiles.depth}, stages {tiles.num_stages}, "
            name += f"warps {tiles.num_warps}, swaps {tiles.swaps}, programs {per_multiprocessor}"
            yield name, partial(tiled, tiles, per_multiprocessor * multiprocessors)


def some_tiles(num_rows: int) -> list[Tiles]:
    """Tiles worth a try."""
    rows = min(256, max(16, triton.next_power_of_2(num_rows)))
    if rows <= 64:
        return [
            Tiles(rows, 64, 256, num_stages=4 if rows < 64 else 3),
            Tiles(rows, 64, 128, num_stages=6),
            Tiles(rows, 128, 128, num_stages=5),
            Tiles(rows, 32, 256, num_stages=4),
        ]
    found = [replace(fp8.MANY, num_stages=stages) for stages in (3, 4)]
    if num_rows <= 256:
        found += [Tiles(rows, 64, 128, num_stages=4), Tiles(rows, 128, 128, num_stages=3, num_warps=8)]
    else:
        found += [
            Tiles(128, 256, 128, swaps=False, num_warps=8, num_stages=3),
            Tiles(256, 128, 128, swaps=False, num_warps=8, num_stages=3),
            Tiles(128, 256, 64, swaps=False, num_warps=8, num_stages=4),
        ]
    return found


def seconds(way: Way, layer: Layer, inputs: Inputs) -> float:
    """Of one product, in a graph of as many as there are copies."""
    for _ in range(2):
        way(layer, inputs, 0)
    graph = torch.cuda.CUDAGraph()
    copies = range(len(layer.values))
    rounds = max(1, 8 // len(copies))
    with torch.cuda.graph(graph):
        for _, copy in itertools.product(range(rounds), copies):
            way(layer, inputs, copy)
    make_event: Any = torch.cuda.Event
    found: list[float] = []
    for _ in range(REPLAYS):
        start, end = make_event(enable_timing=True), make_event(enable_timing=True)
        start.record()
        graph.replay()
        end.record()
        end.synchronize()
        found.append(start.elapsed_time(end) / 1000 / len(copies) / rounds)
    return statistics.median(found)


def measured(way: Way, layer: Layer, inputs: Inputs) -> float:
    """Infinity where the way cannot be: too much shared memory, or a product that torch does not know."""
    try:
        return seconds(way, layer, inputs)
    except (triton.runtime.errors.OutOfResources, RuntimeError) as error:
        print(f"  {layer.name}: {str(error).splitlines()[0][:100]}")
        return float("inf")


def sweep(num_rows: int, layers: dict[str, Layer]) -> None:
    named = dict(ways(num_rows))
    vector_options = fp8.VECTOR
    took: dict[str, dict[str, float]] = {name: {} for name in named}
    for layer_name, layer in layers.items():
        inputs = Inputs.random(num_rows, LAYERS[layer_name][1])
        for name, way in named.items():
            took[name][layer_name] = measured(way, layer, inputs)
            fp8.VECTOR = vector_options
        best = sorted(named, key=lambda name: took[name][layer_name])[:NUM_BEST]
        for name in ["CHOSEN", *(name for name in best if name != "CHOSEN")]:
            spent = took[name][layer_name]
            share = layer.floor(num_rows) / spent
            print(f"{num_rows} {layer_name}: {spent * 1e6:.1f} us, {share:.0%} {name}", flush=True)
    floor = sum(layers[name].floor(num_rows) for name in DECODER)
    totals: list[tuple[float, str]] = sorted(
        (sum(took[name][own] for own in DECODER), name) for name in named
    )
    for total, name in totals[:NUM_BEST]:
        print(f"{num_rows} DECODER LAYER: {total * 1e6:.1f} us, {floor / total:.0%} {name}", flush=True)


def main(argv: list[str] | None = None) -> None:
    parser: Any = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default=",".join(map(str, NUM_ROWS)))
    options = parser.parse_args(argv)
    torch.manual_seed(torch.seed() % 2**31)
    layers = {name: Layer.random(name) for name in LAYERS}
    for num_rows in map(int, options.rows.split(",")):
        sweep(num_rows, layers)


if __name__ == "__main__":
    main()
