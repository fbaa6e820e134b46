"""Products with int8 weights on CPUs: several kernels, of which the one measured fastest is taken.

CPUs multiply whole numbers faster than floats. So activations become whole numbers, too: two int8 digits
each, by the largest of their token, which keeps 15 bits of them (bfloat16 keeps 8). One digit would be faster
with many rows, but SmolLM2-135M loses 4 % of perplexity by it.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import cached_property, lru_cache

import torch
from torch import Tensor
from torch.nn.functional import linear

from inference.cpu import compiler

MEASURED_ROWS = (1, 4, 16, 128)
MAX_MEASURED_OUTPUTS = 16384  # of a wider weight, a part tells as much
MEASURED_BYTES = 6_000_000  # of weights in turn, more than a core's own cache: in a model each comes cold
MAX_TRIALS = 5
MAX_SECONDS = 0.015  # for all kernels of a number of rows; one trial of each is always run
MOST_INEXACT = 0.01  # relative; what CPUs that clip sums of products are off by is much more

LARGEST = 127  # of a digit
WHOLE = float(1 << 23)  # added to a float32, it leaves whole numbers in the lowest bits
ZERO_POINT = 128  # stands for zero in an unsigned digit

ALIGNMENT = 64  # bytes; torch's kernel of bfloat16 rows crashes on rows that begin elsewhere


class CpuWeight:
    """An int8 weight in the forms that kernels need, each made when it is first asked for."""

    def __init__(self, weight: Tensor, scale: Tensor) -> None:
        self.weight = weight.detach()  # int8 [out, in]
        self.scale = scale.detach().reshape(-1)  # float32 [out]
        self._kernels: dict[torch.dtype, tuple[Kernel, ...]] = {}

    def kernel(self, num_rows: int, dtype: torch.dtype) -> Kernel:
        """The fastest kernel as measured for the smallest of MEASURED_ROWS that is no less."""
        kernels = self._kernels.get(dtype)
        if kernels is None:
            kernels = self._kernels[dtype] = measured_kernels(*self.weight.shape, dtype)
        return kernels[min(bisect_left(MEASURED_ROWS, num_rows), len(kernels) - 1)]

    @cached_property
    def aligned(self) -> Tensor:
        """The weight itself, or a copy: in a mapped file it begins anywhere."""
        return aligned(self.weight)

    @cached_property
    def transposed(self) -> Tensor:
        return self.weight.t()

    @cached_property
    def rounded_scale(self) -> Tensor:
        return self.scale.to(torch.bfloat16)

    @cached_property
    def prepacked(self) -> Tensor:
        """A copy in the order in which oneDNN reads it."""
        packed: Tensor = torch.ops.onednn.qlinear_prepack(self.weight, None)
        return packed

    @cached_property
    def zero_points(self) -> Tensor:
        return torch.zeros(len(self.weight), dtype=torch.int32, device="cpu")


Kernel = Callable[[Tensor, CpuWeight], Tensor]  # x [rows, in] -> [rows, out] in the dtype of x


def reference(x: Tensor, weight: CpuWeight) -> Tensor:
    """The reference, right on every device: int8 is exact in each float dtype; scales apply after."""
    return linear(x, weight.weight.to(x.dtype)) * weight.scale.to(x.dtype)


def in_float32(x: Tensor, weight: CpuWeight) -> Tensor:
    """The reference in float32: CPUs without bfloat16 instructions are several times faster at it."""
    return (linear(x.float(), weight.weight.float()) * weight.scale).to(x.dtype)


def by_int8pack_mm(x: Tensor, weight: CpuWeight) -> Tensor:
    """torch's kernel for few rows of bfloat16, to which others are rounded: given float32 it is very slow.

    Only for rows of a multiple of ALIGNMENT numbers: of others it reads past the end.
    """
    rows = aligned(x.to(torch.bfloat16).contiguous())
    return torch._weight_int8pack_mm(rows, weight.aligned, weight.rounded_scale).to(x.dtype)


def aligned(tensor: Tensor) -> Tensor:
    """A contiguous tensor that begins at a multiple of ALIGNMENT: itself where it does, else a copy."""
    return tensor if tensor.data_ptr() % ALIGNMENT == 0 else tensor.clone()


def by_int_mm(x: Tensor, weight: CpuWeight) -> Tensor:
    """Two signed int8 digits of each activation, stacked in one `torch._int_mm`."""
    unit = x.float().abs().amax(-1, keepdim=True).mul_(1 / LARGEST)
    scaled = x / unit  # a token of zeros: not numbers, but times a unit of 0
    high = scaled.round()
    digits = torch.empty((2, *x.shape), dtype=torch.int8, device="cpu")
    digits[0].copy_(high)
    digits[1].copy_(scaled.sub_(high).mul_(2 * LARGEST).round_())
    product = torch._int_mm(digits.view(-1, x.shape[1]), weight.transposed)
    first, second = torch.mul(product, weight.scale).view(2, len(x), -1).unbind()
    return first.add_(second, alpha=1 / (2 * LARGEST)).mul_(unit).to(x.dtype)


def by_onednn(x: Tensor, weight: CpuWeight) -> Tensor:
    """Two uint8 digits of each activation, by oneDNN's product with a prepacked weight."""
    largest = x.float().abs().amax(-1, keepdim=True)
    whole = torch.addcmul(_bias(), x.float(), (LARGEST * 256) / largest).view(torch.int32)
    digits = torch.empty((2, *x.shape), dtype=torch.uint8, device="cpu")
    digits[1].copy_(whole)  # the lowest byte: -128 to 127, and MIDDLE
    digits[0].copy_(whole.bitwise_right_shift_(8))  # the one above it
    product = torch.ops.onednn.qlinear_pointwise(
        digits.view(-1, x.shape[1]), 1.0, ZERO_POINT, weight.prepacked, weight.scale, weight.zero_points,
        None, 1.0, 0, torch.float32, "none", [], "",
    )  # fmt: skip
    first, second = product.view(2, len(x), -1).unbind()
    return first.add_(second, alpha=1 / 256).mul_(largest.mul_(1 / LARGEST)).to(x.dtype)


@lru_cache(maxsize=1)
def _bias() -> Tensor:
    """Shifts a number so that both its digits are unsigned, and rounds it to a whole one."""
    return torch.tensor(WHOLE + ZERO_POINT * 256 + ZERO_POINT, dtype=torch.float32, device="cpu")


def by_compiled_code(x: Tensor, weight: CpuWeight) -> Tensor:
    """Our own compiled product: int16 activations, each weight read once for all rows."""
    if not compiler.works():
        raise RuntimeError("nothing can be compiled here")
    from inference.cpu.matmul_single import multiply

    return multiply(x, weight.weight, weight.scale).to(x.dtype)


INTEGER_KERNELS: tuple[Kernel, ...] = (by_int_mm, by_onednn, by_compiled_code)


def candidates(dtype: torch.dtype, num_inputs: int) -> tuple[Kernel, ...]:
    """The kernels for activations [rows, num_inputs] of a dtype, the plainest first."""
    plain = (reference,) if dtype == torch.float32 else (reference, in_float32)
    rounded = () if num_inputs % ALIGNMENT else (by_int8pack_mm,)
    return (*plain, *rounded, *(kernel for kernel in INTEGER_KERNELS if is_exact(kernel)))


@lru_cache(maxsize=8)
def is_exact(kernel: Kernel) -> bool:
    """True if `kernel` is exact on this CPU: without VNNI, sums of 8-bit products are clipped to 16 bits."""
    numbers = torch.full((16, 64), LARGEST, dtype=torch.int8, device="cpu")
    weight = CpuWeight(numbers, torch.ones(16, dtype=torch.float32, device="cpu"))
    x = torch.ones(2, 64, dtype=torch.float32, device="cpu")
    x[1] *= -1
    try:
        product = kernel(x, weight)
    except (AttributeError, RuntimeError):
        return False
    return bool(((product - reference(x, weight)).abs() <= MOST_INEXACT * 64 * LARGEST).all())


def fastest(x: Tensor, weight: CpuWeight) -> Tensor:
    """The product of x [..., in] by the kernel measured fastest for so many rows."""
    if x.dim() == 2:
        return weight.kernel(x.shape[0], x.dtype)(x, weight)
    product = fastest(x.reshape(-1, x.shape[-1]), weight)
    return product.view(*x.shape[:-1], product.shape[-1])


@lru_cache(maxsize=256)
def measured_kernels(num_outputs: int, num_inputs: int, dtype: torch.dtype) -> tuple[Kernel, ...]:
    """The fastest kernel for each of MEASURED_ROWS; measured once a shape, while the engine warms up.

    On one thread and by its own clock, so that other work on the machine does not decide.
    """
    num_outputs = min(num_outputs, MAX_MEASURED_OUTPUTS)
    num_weights = max(1, MEASURED_BYTES // (num_outputs * num_inputs))
    chance = torch.Generator("cpu").manual_seed(0)
    scale = torch.full((num_outputs,), 0.01, dtype=torch.float32, device="cpu")
    shape = num_weights, num_outputs, num_inputs
    numbers = torch.randint(-LARGEST, LARGEST + 1, shape, generator=chance, dtype=torch.int8, device="cpu")
    weights = [CpuWeight(weight, scale) for weight in numbers]
    kernels = candidates(dtype, num_inputs)
    for weight in weights:  # not measured: it is done once
        _ = weight.rounded_scale, weight.zero_points, by_onednn in kernels and weight.prepacked
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        activations = [
            torch.randn(rows, num_inputs, generator=chance, dtype=dtype, device="cpu")
            for rows in MEASURED_ROWS
        ]
        return tuple(_fastest(kernels, x, weights) for x in activations)
    finally:
        torch.set_num_threads(num_threads)


def _fastest(kernels: Sequence[Kernel], x: Tensor, weights: Sequence[CpuWeight]) -> Kernel:
    """The kernel of the fastest trial, in turns: slower trials were disturbed, or came first."""
    best = dict.fromkeys(kernels, float("inf"))
    started = time.thread_time()
    for trial in range(MAX_TRIALS):
        weight = weights[trial % len(weights)]
        for kernel in kernels:
            begun = time.thread_time()
            kernel(x, weight)
            best[kernel] = min(best[kernel], time.thread_time() - begun)
        if time.thread_time() - started > MAX_SECONDS:
            break
    return min(kernels, key=lambda kernel: best[kernel])
