"""Products with int8 weights on CPUs: every way gives the product; the fastest one is taken."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

from inference.quantization import int8_cpu
from inference.quantization.int8 import Int8Linear, dequantize, quantize
from inference.quantization.int8_cpu import CpuWeight, Kernel
from inference.quantization.int8_matmul import FastestMatmul, dequantized
from inference.quantization.linear import allow_rounding

KERNELS = (
    int8_cpu.reference,
    int8_cpu.in_float32,
    int8_cpu.by_int8pack_mm,
    *int8_cpu.INTEGER_KERNELS,
)
INTEGER_KERNELS = tuple(kernel for kernel in int8_cpu.INTEGER_KERNELS if int8_cpu.is_exact(kernel))
USABLE = [kernel for kernel in KERNELS if kernel not in int8_cpu.INTEGER_KERNELS or kernel in INTEGER_KERNELS]
TOLERANCES = {int8_cpu.by_int8pack_mm: 0.005}  # bfloat16 has 8 bits; digits keep 15
NUM_INPUTS, NUM_OUTPUTS = 64, 96


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def made(num_rows: int) -> tuple[Tensor, CpuWeight, Tensor]:
    """Activations of very different sizes, a weight, and the exact product in float64."""
    generator = torch.Generator().manual_seed(num_rows)
    weight, scale = quantize(torch.randn(NUM_OUTPUTS, NUM_INPUTS, generator=generator))
    x = torch.randn(num_rows, NUM_INPUTS, generator=generator) * torch.logspace(-3, 3, num_rows)[:, None]
    return x, CpuWeight(weight, scale), x.double() @ dequantize(weight, scale).double().T


def error(product: Tensor, reference: Tensor) -> float:
    """The largest of all rows, each relative to its own size."""
    return float(((product.double() - reference).norm(dim=-1) / reference.norm(dim=-1)).max())


@pytest.mark.parametrize("num_rows", [1, 3, 40])
@pytest.mark.parametrize(
    "kernel",
    USABLE,
)
def test_every_kernel_gives_the_product(kernel: Kernel, num_rows: int) -> None:
    x, weight, reference = made(num_rows)
    product = kernel(x, weight)
    assert product.dtype == torch.float32
    assert error(product, reference) < TOLERANCES.get(kernel, 1e-4)
    rounded = x.to(torch.bfloat16)
    product = kernel(rounded, weight)
    assert product.dtype == torch.bfloat16
    assert (
        error(product, rounded.double() @ dequantize(weight.weight, weight.scale[:, None]).double().T) < 0.005
    )


def shifted(tensor: Tensor, num_bytes: int) -> Tensor:
    """The same numbers, that many bytes behind a place where memory is aligned."""
    size = tensor.element_size()
    memory = torch.zeros(tensor.numel() + num_bytes // size, dtype=tensor.dtype)
    return memory[num_bytes // size :].view(tensor.shape).copy_(tensor)


@pytest.mark.parametrize("num_bytes", [4, 8, 36])
@pytest.mark.parametrize("num_rows", [1, 3, 4, 40])
@pytest.mark.parametrize(
    "kernel",
    USABLE,
)
def test_every_kernel_takes_unaligned_tensors(kernel: Kernel, num_rows: int, num_bytes: int) -> None:
    """As those of a mapped file do: a kernel that insists on aligned ones would end the process."""
    x, weight, _ = made(num_rows)
    x = x.to(torch.bfloat16)
    anywhere = CpuWeight(shifted(weight.weight, num_bytes), shifted(weight.scale, num_bytes))
    assert torch.equal(kernel(shifted(x, num_bytes), anywhere), kernel(x, weight))


@pytest.mark.parametrize("num_inputs", [63, 70, 96, 570])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_way_taken_for_odd_rows_gives_the_product(num_inputs: int, dtype: torch.dtype) -> None:
    weight, scale = quantize(torch.randn(33, num_inputs))
    x = torch.randn(5, num_inputs).to(dtype)
    reference = x.double() @ dequantize(weight, scale).double().T
    kernels = int8_cpu.candidates(dtype, num_inputs)
    assert int8_cpu.by_int8pack_mm not in kernels
    for kernel in kernels:
        assert error(kernel(x, CpuWeight(weight, scale)), reference) < 0.01


@pytest.mark.parametrize("kernel", INTEGER_KERNELS)
def test_a_token_is_multiplied_the_same_in_any_batch(kernel: Kernel) -> None:
    """Its digits are by its own largest activation: neighbours, however large or broken, change no bit."""
    x, weight, _ = made(5)
    x[1] = 0.0
    x[3] = float("nan")
    x[4, 7] = float("inf")
    together = kernel(x, weight)
    for row in (0, 1, 2):
        assert torch.equal(kernel(x[row : row + 1], weight)[0], together[row])
    assert not together[1].any()
    assert not together[3:].isfinite().any(), "what is broken has to stay so: the engine ends such a request"


def test_ways_that_clip_their_sums_are_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def clipping(x: Tensor, weight: CpuWeight) -> Tensor:  # as multiply-adds of 8 bits into 16 do
        return int8_cpu.reference(x, weight).clamp(-(2**15), 2**15) / 2

    def lacking(x: Tensor, weight: CpuWeight) -> Tensor:
        raise RuntimeError("not in this torch")

    monkeypatch.setattr(int8_cpu, "INTEGER_KERNELS", (clipping, lacking))
    assert int8_cpu.candidates(torch.float32, NUM_INPUTS) == (int8_cpu.reference, int8_cpu.by_int8pack_mm)


def test_the_way_follows_the_number_of_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    def kernel(value: int) -> Callable[..., Tensor]:
        return lambda x, weight: torch.full((len(x), 1), value)

    kernels = tuple(kernel(rows) for rows in int8_cpu.MEASURED_ROWS)
    monkeypatch.setattr(int8_cpu, "measured_kernels", lambda *shape: kernels)
    weight = CpuWeight(*quantize(torch.ones(8, 8)))
    chosen = [int(int8_cpu.fastest(torch.ones(rows, 8), weight)[0]) for rows in (1, 2, 4, 5, 16, 17, 500)]
    assert chosen == [1, 4, 4, 16, 16, 128, 128]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_measurement_names_a_way_for_every_number_of_rows(dtype: torch.dtype) -> None:
    threads = torch.get_num_threads()
    kernels = int8_cpu.measured_kernels(NUM_OUTPUTS, NUM_INPUTS, dtype)
    assert len(kernels) == len(int8_cpu.MEASURED_ROWS)
    assert set(kernels) <= set(int8_cpu.candidates(dtype, NUM_INPUTS)) <= set(KERNELS)
    assert torch.get_num_threads() == threads


def test_the_slower_way_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow(x: Tensor, weight: CpuWeight) -> Tensor:
        for _ in range(20):
            product = int8_cpu.reference(x, weight)
        return product

    monkeypatch.setattr(int8_cpu, "candidates", lambda dtype, num_inputs: (slow, int8_cpu.reference))
    assert set(int8_cpu.measured_kernels(200, 104, torch.float32)) == {int8_cpu.reference}


def test_float32_activations_are_multiplied_exactly_unless_rounding_is_allowed() -> None:
    x, weight, reference = made(2)
    weight_and_scale = weight.weight, weight.scale[:, None]
    assert torch.equal(FastestMatmul()(x, *weight_and_scale), dequantized(x, *weight_and_scale))
    layer = layer_of(weight)
    assert error(layer(x), reference) < 1e-6
    allow_rounding(nn.ModuleList([layer]))
    assert error(layer(x), reference) < 0.005


def test_a_joined_layer_multiplies_by_its_own_weight() -> None:
    """What was prepared of one weight is of no use to another."""
    x, first, exact_first = made(3)
    second = CpuWeight(*quantize(torch.randn(32, NUM_INPUTS, generator=torch.Generator().manual_seed(9))))
    layers = [layer_of(first), layer_of(second)]
    torch.testing.assert_close(layers[0].product()(x), layers[0](x), rtol=0, atol=0)
    allow_rounding(nn.ModuleList(layers))
    alone = [layer(x) for layer in layers]
    joined = Int8Linear.joined(layers)
    torch.testing.assert_close(joined(x), torch.cat(alone, dim=-1), rtol=0.01, atol=0.01)
    assert error(joined(x)[:, :NUM_OUTPUTS], exact_first) < 0.005
    assert error(layers[0](x), exact_first) < 0.005


def layer_of(weight: CpuWeight) -> Int8Linear:
    layer = Int8Linear(
        NUM_INPUTS,
        len(weight.weight),
        bias=False,
        dtype=torch.float32,
        weight_dtype=torch.int8,
        device=torch.device("cpu"),
    )
    layer.weight.data, layer.weight_scale.data = weight.weight, weight.scale[:, None]
    return layer
