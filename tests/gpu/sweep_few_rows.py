"""Times products of few rows beside cuBLAS: `python -m tests.gpu.sweep_few_rows`, on a GPU.

Weights rotate, so that none is found in the cache. What is chosen stands in inference/kernels/few_rows.py.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
import triton
from torch import Tensor

from inference.kernels import few_rows

LAYERS = {"qkv": (6144, 4096), "o": (4096, 4096), "gate_up": (28672, 4096), "down": (4096, 14336)}
COPY_BYTES_PER_SECOND = 4.2e12
SHAPES = (
    (16, 512, 4, 3),
    (32, 128, 4, 5),
    (32, 256, 4, 3),
    (32, 256, 4, 4),
    (64, 128, 4, 4),
    (64, 128, 4, 6),
    (64, 256, 4, 3),
)


def microseconds(product: Callable[[Tensor], Tensor], weights: list[Tensor]) -> float:
    def run() -> None:
        for weight in weights:
            product(weight)

    milliseconds = triton.testing.do_bench_cudagraph(run, rep=15, return_mode="median")
    return 1000 * float(milliseconds) / len(weights)


def main() -> None:
    for num_rows in (1, 8, 32, 64):
        for name, (num_outputs, width) in LAYERS.items():
            x = torch.randn(num_rows, width, device="cuda", dtype=torch.bfloat16)
            count = max(2, 600_000_000 // (num_outputs * width * 2))
            weights = [
                torch.randn(num_outputs, width, device="cuda", dtype=torch.bfloat16) for _ in range(count)
            ]
            floor = num_outputs * width * 2 / COPY_BYTES_PER_SECOND * 1e6
            torchs = microseconds(lambda weight, x=x: F.linear(x, weight), weights)
            found = []
            for shape in SHAPES:
                few_rows.SHAPE = dict(
                    zip(("OUTPUTS", "DEPTH", "num_warps", "num_stages"), shape, strict=True)
                )
                try:
                    taken = microseconds(lambda weight, x=x: few_rows.few_rows(x, weight, None), weights)
                except triton.runtime.errors.OutOfResources:
                    continue
                found.append((taken, shape))
            best = ", ".join(f"{taken:.1f} {shape}" for taken, shape in sorted(found)[:3])
            print(f"M={num_rows} {name}: floor {floor:.1f}, torch {torchs:.1f}; {best}", flush=True)


if __name__ == "__main__":
    main()
