"""The device's measured peaks: copy bandwidth and FLOP/s of large matrix products."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass

import torch
from torch import Tensor

COPY_BYTES = {"cuda": 2 * 2**30, "cpu": 2**27}  # far more than its caches hold
MATRIX_SIZE = {"cuda": 8192, "cpu": 1024}
NUM_TRIALS = 10
LARGEST_FP8 = 448.0


@dataclass(frozen=True, slots=True)
class Ceilings:
    """Measured, not promised: the best of a few trials on random numbers."""

    copy_bytes_per_second: float  # read and written
    flops_per_second: float
    products: str  # of what: a dtype of torch, or "fp8"

    def report(self) -> dict[str, object]:
        return asdict(self) | {"means": f"best of {NUM_TRIALS} trials"}


def measure_ceilings(device: torch.device, dtype: torch.dtype, *, is_fp8: bool = False) -> Ceilings:
    """Takes about a second, and on GPUs 4 GiB for that time. `is_fp8`: products as fp8 layers make them."""
    copied = _copy_rate(device)
    name = str(dtype).removeprefix("torch.")
    if is_fp8 and device.type == "cuda":
        name, multiply = "fp8", _fp8_product(device)
    else:
        multiply = _product(device, dtype)
    size = MATRIX_SIZE[device.type]
    ceilings = Ceilings(copied, 2 * size**3 / _seconds(multiply, device), name)
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what an engine plans its memory from
    return ceilings


def _copy_rate(device: torch.device) -> float:
    source = torch.ones(COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _seconds(lambda: target.copy_(source), device)


def _product(device: torch.device, dtype: torch.dtype) -> Callable[[], Tensor]:
    size = MATRIX_SIZE[device.type]
    left, right = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return lambda: left @ right


def _fp8_product(device: torch.device) -> Callable[[], Tensor]:
    size = MATRIX_SIZE[device.type]
    left, right = (
        torch.randn(size, size, dtype=torch.float32, device=device)
        .clamp_(-LARGEST_FP8, LARGEST_FP8)
        .to(torch.float8_e4m3fn)
        for _ in range(2)
    )
    one = torch.ones((), dtype=torch.float32, device=device)
    return lambda: torch._scaled_mm(
        left, right.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16, use_fast_accum=True
    )


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The best trial; on a GPU by events, three runs a trial."""
    with torch.inference_mode():
        for _ in range(2):
            work()
        return min(_trial(work, device) for _ in range(NUM_TRIALS))


def _trial(work: Callable[[], object], device: torch.device) -> float:
    if device.type == "cpu":
        started = time.perf_counter()
        work()
        return time.perf_counter() - started
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(3):
        work()
    end.record()
    end.synchronize()
    return float(begin.elapsed_time(end)) / 3000
