"""Times the product of batch-invariant mode against cuBLAS: `python -m tests.gpu.sweeps.invariant`, on a GPU.

Prints for the shapes of an 8B model which tiles are quickest for few, some and many rows, whether their bits
agree with those of the first, and what a decode step's products cost beside cuBLAS. What is chosen from it
stands in inference/kernels/matmul.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from inference.kernels.matmul import FLOAT32, Tile, agreeing_tiles, invariant_product, tiles_of
from inference.kernels.softmax_tile import shared_memory

SHAPES = {  # outputs, inputs
    "qkv": (6144, 4096),
    "o": (4096, 4096),
    "gate_up": (28672, 4096),
    "down": (4096, 14336),
    "head": (128256, 4096),
}
NUM_LAYERS = 32
ROWS = (1, 32, 64, 256, 4096)
CANDIDATES = [
    Tile(0, rows=64, outputs=32, depth=128, warps=4, stages=4),
    Tile(0, rows=64, outputs=32, depth=64, warps=4, stages=6),
    Tile(0, rows=64, outputs=64, depth=128, warps=4, stages=4),
    Tile(0, rows=64, outputs=64, depth=64, warps=4, stages=6),
    Tile(0, rows=64, outputs=128, depth=64, warps=4, stages=4),
    Tile(0, rows=128, outputs=64, depth=64, warps=4, stages=4),
    Tile(0, rows=128, outputs=128, depth=64, warps=8, stages=4),
    Tile(0, rows=128, outputs=256, depth=64, warps=8, stages=3),
    Tile(0, rows=256, outputs=128, depth=64, warps=8, stages=3),
]


def microseconds(run: Any) -> float:
    return 1000 * float(triton.testing.do_bench(run, warmup=3, rep=12, return_mode="median"))


def named(tile: Tile) -> str:
    return f"{tile.rows}x{tile.outputs}x{tile.depth} warps {tile.warps} stages {tile.stages}"


def sweep(name: str, weight: Tensor, x: Tensor, bits: Tensor) -> None:
    """All candidates for one number of rows."""
    whole = replace(tiles_of(weight)[0], up_to=FLOAT32.up_to)
    found = []
    for candidate in CANDIDATES:
        tile = replace(candidate, up_to=FLOAT32.up_to)
        tile = tile.fitting(shared_bytes=shared_memory(weight.device), itemsize=weight.itemsize)
        try:
            agrees = torch.equal(
                invariant_product(bits, weight, None, (tile,)),
                invariant_product(bits, weight, None, (whole,)),
            )
            took = microseconds(lambda tile=tile: invariant_product(x, weight, None, (tile,)))
        except triton.runtime.errors.OutOfResources:
            continue
        found.append((took, named(tile) + ("" if agrees else " OTHER BITS")))
    for took, tile in sorted(found)[:3]:
        print(f"{name} M={x.shape[0]}: {took:.1f} us with {tile}", flush=True)


def main() -> None:
    torch.manual_seed(0)
    cublas: dict[tuple[str, int], float] = {}
    ours: dict[tuple[str, int], float] = {}
    for name, (num_outputs, num_inputs) in SHAPES.items():
        weight = torch.randn(num_outputs, num_inputs, device="cuda", dtype=torch.bfloat16) / num_inputs**0.5
        tiles = agreeing_tiles(weight)
        print(f"{name}: {len(tiles)} of {len(tiles_of(weight))} tiles agree", flush=True)
        bits = torch.randn(200, num_inputs, device="cuda", dtype=torch.bfloat16)
        for num_rows in ROWS if name != "head" else ROWS[:-1]:
            x = torch.randn(num_rows, num_inputs, device="cuda", dtype=torch.bfloat16)
            sweep(name, weight, x, bits)
            cublas[name, num_rows] = microseconds(lambda x=x, w=weight: F.linear(x, w))
            ours[name, num_rows] = microseconds(
                lambda x=x, w=weight, tiles=tiles: invariant_product(x, w, None, tiles)
            )
    print("\nrows     | " + " | ".join(SHAPES) + " | a step's products: cuBLAS, ours, share of its speed")
    for num_rows in ROWS:
        row = [name for name in SHAPES if (name, num_rows) in cublas]
        ratios = [f"{cublas[name, num_rows] / ours[name, num_rows]:.2f}" for name in row]
        times = [1 if name == "head" else NUM_LAYERS for name in row]
        totals = [
            sum(time * found[name, num_rows] for time, name in zip(times, row, strict=True)) / 1000
            for found in (cublas, ours)
        ]
        ends = f"{totals[0]:.2f} ms, {totals[1]:.2f} ms, {totals[0] / totals[1]:.2f}"
        print(f"{num_rows:8} | {' | '.join(ratios)} | {ends}")


if __name__ == "__main__":
    main()
