"""Products of activations with int8 weights: the reference, and what proved faster on the CPU at hand."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn.functional import linear

# x [..., in], weight int8 [out, in], scale float32 [out, 1] -> [..., out] in the dtype of x
Matmul = Callable[[Tensor, Tensor, Tensor], Tensor]

MEASURED_ROWS = (1, 4, 16, 64)
MAX_TRIALS = 5
MAX_SECONDS = 0.02  # per candidate and number of rows; one trial is always run


def dequantized(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """The reference, right on every device: int8 is exact in each float dtype; scales apply after."""
    return linear(x, weight.to(x.dtype)) * scale.squeeze(-1).to(x.dtype)


def widened(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """The reference in float32: CPUs without bfloat16 instructions are several times faster at it."""
    return (linear(x.float(), weight.float()) * scale.squeeze(-1)).to(x.dtype)


def packed(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """torch's CPU kernel for bfloat16 activations: it reads the weights as int8, which is fast for few rows.

    Other activations are rounded to bfloat16: given float32 the kernel is 10 to 70 times slower.
    """
    rows = x.reshape(-1, x.shape[-1]).to(torch.bfloat16)
    product = torch.ops.aten._weight_int8pack_mm(rows, weight, scale.squeeze(-1).to(torch.bfloat16))
    return product.reshape(*x.shape[:-1], weight.shape[0]).to(x.dtype)


def on_cuda(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """By kernels that read the weights as int8; float32 activations, which they refuse, the plain way."""
    from inference.quantization import weight_only_cuda

    kernel = weight_only_cuda.multiply_int8 if x.dtype in weight_only_cuda.DTYPES else dequantized
    return kernel(x, weight, scale)


def fastest(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """The fastest way that keeps the activations' precision."""
    if x.is_cuda:
        return on_cuda(x, weight, scale)
    if x.device.type == "cpu" and x.dtype == torch.bfloat16:
        return _measured(x, weight, scale)
    return dequantized(x, weight, scale)


def fastest_rounded(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    """The fastest way, where float32 activations may be rounded to bfloat16, too."""
    if x.is_cuda:
        return on_cuda(x, weight, scale)
    if x.device.type == "cpu" and x.dtype in (torch.bfloat16, torch.float32):
        return _measured(x, weight, scale)
    return dequantized(x, weight, scale)


def _measured(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    num_rows = x.numel() // x.shape[-1]
    ways = measured_ways(*weight.shape, torch.get_num_threads(), x.dtype)
    way = next((way for rows, way in zip(MEASURED_ROWS, ways, strict=True) if num_rows <= rows), ways[-1])
    return way(x, weight, scale)


@lru_cache(maxsize=256)
def measured_ways(
    num_outputs: int, num_inputs: int, num_threads: int, dtype: torch.dtype
) -> tuple[Matmul, ...]:
    """The fastest way for each of MEASURED_ROWS; measured once a shape, while the engine warms up."""
    weight = torch.randint(-127, 128, (num_outputs, num_inputs), dtype=torch.int8)
    scale = torch.full((num_outputs, 1), 0.01)
    candidates = (packed, dequantized) if dtype == torch.float32 else (packed, dequantized, widened)
    ways = []
    for num_rows in MEASURED_ROWS:
        x = torch.randn(num_rows, num_inputs, dtype=dtype)
        seconds = {way: _seconds(way, x, weight, scale) for way in candidates}
        ways.append(min(seconds, key=lambda way: seconds[way]))
    return tuple(ways)


def _seconds(way: Matmul, x: Tensor, weight: Tensor, scale: Tensor) -> float:
    """The fastest of a few trials: the others were disturbed."""
    trials: list[float] = []
    while len(trials) < MAX_TRIALS and sum(trials) < MAX_SECONDS:
        start = time.perf_counter()
        way(x, weight, scale)
        trials.append(time.perf_counter() - start)
    return min(trials)
