"""Times the attention kernels over tiles, warps and stages: `python -m tests.gpu.sweeps.attention`, on a GPU.

Prints the quickest shapes of each case with the share of the machine's rate that they reach; what is chosen
from it stands in inference/kernels/decode_attention.py and prefill_attention.py.
"""

from __future__ import annotations

import itertools
import random
from dataclasses import replace
from typing import Any

import torch
import triton

from inference.attention import split_kv
from inference.kernels import decode_attention, prefill_attention
from inference.kernels.softmax_tile import NO_WINDOW
from tests.gpu.test_kernels import SPLIT_KV, batch_of, pool, slices

HEADS, KV_HEADS, DIM, BLOCK = 32, 8, 128, 16
COPY_BYTES_PER_SECOND = 4.2e12
FLOPS = 776e12


def prefill_cases() -> dict[str, list[tuple[int, int]]]:
    return {"2 x 2048": [(2048, 2048)] * 2, "8 x 512": [(512, 512)] * 8, "4096 after 4096": [(4096, 8192)]}


def decode_cases() -> dict[str, list[tuple[int, int]]]:
    drawn = random.Random(0)
    uneven = [(1, max(16, min(2800, int(420 * 2.7 ** drawn.gauss(0, 0.7))))) for _ in range(256)]
    return {
        "uneven 64": uneven[:64],
        "uneven 128": uneven[:128],
        "uneven 256": uneven,
        "1 x 640": [(1, 640)],
        "8 x 640": [(1, 640)] * 8,
        "32 x 640": [(1, 640)] * 32,
        "128 x 640": [(1, 640)] * 128,
        "256 x 640": [(1, 640)] * 256,
        "32 x 4096": [(1, 4096)] * 32,
    }


def milliseconds(run: Any) -> float:
    return float(triton.testing.do_bench_cudagraph(run, rep=15, return_mode="median"))


class Case:
    """A batch of random numbers, ready to be attended to."""

    def __init__(self, lengths: list[tuple[int, int]], splits: split_kv.SplitKV = SPLIT_KV) -> None:
        num_blocks = sum(-(-kv // BLOCK) for _, kv in lengths) + 8
        self.lengths = lengths
        self.cache = pool(num_blocks, BLOCK, KV_HEADS, DIM, torch.bfloat16)
        self.batch = batch_of(slices(lengths, num_blocks, BLOCK), BLOCK, HEADS // KV_HEADS, splits)
        num_tokens = sum(new for new, _ in lengths)
        self.query = torch.randn(num_tokens, HEADS, DIM, device="cuda", dtype=torch.bfloat16)
        self.out = torch.empty_like(self.query)
        self.options: dict[str, Any] = {
            "tables": self.batch.tables,
            "block_size": BLOCK,
            "scaling": DIM**-0.5,
            "window": NO_WINDOW,
            "softcap": 0.0,
            "sinks": None,
        }

    def decode(self) -> None:
        batch = self.batch
        own = {"rows": batch.rows, "lens": batch.lens, "items": batch.items, "parts": batch.parts}
        keys, values = self.cache.keys[0], self.cache.values[0]
        decode_attention.decode_attention(self.query, keys, values, self.out, **own, **self.options)

    def prefill(self) -> None:
        own = {"tiles": self.batch.tiles, "sequences": self.batch.sequences}
        keys, values = self.cache.keys[0], self.cache.values[0]
        prefill_attention.prefill_attention(self.query, keys, values, self.out, **own, **self.options)

    def decode_floor(self) -> float:
        """Seconds that reading the keys and values takes at the least."""
        return sum(kv for _, kv in self.lengths) * KV_HEADS * DIM * 2 * 2 / COPY_BYTES_PER_SECOND

    def prefill_floor(self) -> float:
        """Seconds that the products take at the least."""
        return sum(4 * HEADS * DIM * (new * kv - new * new / 2) for new, kv in self.lengths) / FLOPS


def say(name: str, floor: float, found: list[tuple[float, str]]) -> None:
    for took, shape in sorted(found)[:4]:
        print(f"{name}: {took * 1000:.1f} us, {floor / took * 1e5:.0f} % {shape}", flush=True)


def sweep_prefill(name: str, lengths: list[tuple[int, int]]) -> None:
    found = list[tuple[float, str]]()
    for rows, tile, warps, stages in itertools.product((64, 128, 256), (32, 64, 128), (4, 8), (2, 3)):
        if rows // warps not in (16, 32) or rows * tile > 128 * 128:
            continue
        prefill_attention.NUM_ROWS = rows
        prefill_attention.SHAPES = ({"TILE": tile, "num_warps": warps, "num_stages": stages},)
        case = Case(lengths)
        case.batch = replace(case.batch, tiles=longest_first(case.batch.tiles))
        try:
            found.append((milliseconds(case.prefill), f"rows {rows} {prefill_attention.SHAPES[0]}"))
        except triton.runtime.errors.OutOfResources:
            continue
    say(f"prefill {name}", case.prefill_floor(), found)


def longest_first(tiles: torch.Tensor) -> torch.Tensor:
    return tiles[torch.argsort(-tiles[:, 1], stable=True)].contiguous()


def sweep_decode(name: str, lengths: list[tuple[int, int]]) -> None:
    found = list[tuple[float, str]]()
    for waves in (2, 4):
        split_kv.NUM_WAVES = waves
        case = Case(lengths)
        for tile, warps, stages in ((32, 2, 3), (64, 2, 2), (64, 2, 3), (64, 2, 4), (128, 4, 2), (128, 4, 3)):
            decode_attention.SHAPES = ({"TILE": tile, "num_warps": warps, "num_stages": stages},)
            found.append((milliseconds(case.decode), f"{decode_attention.SHAPES[0]} waves {waves}"))
    say(f"decode {name}", case.decode_floor(), found)


def main() -> None:
    for name, lengths in prefill_cases().items():
        sweep_prefill(name, lengths)
    for name, lengths in decode_cases().items():
        sweep_decode(name, lengths)


if __name__ == "__main__":
    main()
