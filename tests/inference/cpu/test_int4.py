"""Compiled products of int4 weights are those of the dequantized ones, for every shape and group."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from inference.cpu import compiler
from inference.cpu.matmul_single import multiply_int4
from inference.cpu.packing import pack
from inference.quantization import int4
from tests.inference.cpu.guarded import guarded

pytestmark = pytest.mark.skipif(not compiler.works(), reason="nothing can be compiled here")

# rows, outputs, inputs: every number of rows that a tile has, groups of 32, 64 and 128, blocks not filled
SHAPES = [
    (1, 1, 32),
    (1, 33, 576),
    (2, 32, 128),
    (3, 77, 96),
    (4, 64, 64),
    (5, 129, 160),
    (8, 96, 384),
    (13, 31, 192),
    (33, 70, 576),
    (70, 40, 1536),
]
BOTH = pytest.mark.parametrize("rounds", [False, True], ids=["float32", "rounded"])


@dataclass(frozen=True, slots=True)
class Weight:
    """A weight as the file has it, [out, in / 2] and [groups, out]."""

    numbers: Tensor
    scale: Tensor

    @property
    def words(self) -> Tensor:
        return pack(self.numbers.view(torch.int32))

    @property
    def scales(self) -> Tensor:
        return pack(self.scale.t())

    def exact(self) -> Tensor:
        return int4.dequantize(self.numbers, self.scale).double()

    def times(self, x: Tensor, *, rounds: bool) -> Tensor:
        return multiply_int4(x, self.words, self.scales, len(self.numbers), rounds=rounds)


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


def operands(num_rows: int, num_outputs: int, num_inputs: int) -> tuple[Tensor, Weight]:
    """All numbers that there are, each group with its own scale, some negative."""
    numbers = torch.randint(0, 256, (num_outputs, num_inputs // 2), dtype=torch.uint8)
    scale = torch.randn(num_inputs // int4.group_of(num_inputs), num_outputs).bfloat16()
    return torch.randn(num_rows, num_inputs), Weight(numbers, scale)


def assert_close(found: Tensor, x: Tensor, weight: Tensor, *, rounds: bool) -> None:
    """Off by what rounding activations to 15 bits, or sums to float32, may do to sums of such sizes."""
    wanted = x.double() @ weight.t()
    unit = x.double().abs().amax(-1, keepdim=True) * weight.norm(dim=1)
    off = (found.double() - wanted).abs() / unit.clamp_min(1e-300)
    assert float(off.max()) < (1e-4 if rounds else 1e-6)


@BOTH
@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_the_product_with_the_dequantized_weight(shape: tuple[int, int, int], *, rounds: bool) -> None:
    x, weight = operands(*shape)
    assert_close(weight.times(x, rounds=rounds), x, weight.exact(), rounds=rounds)


@BOTH
@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_read_past_the_end(shape: tuple[int, int, int], *, rounds: bool) -> None:
    x, weight = operands(*shape)
    words, scales = guarded(weight.words), guarded(weight.scales)
    found = multiply_int4(guarded(x), words, scales, len(weight.numbers), rounds=rounds)
    assert torch.equal(found, weight.times(x, rounds=rounds))


@BOTH
@pytest.mark.parametrize("number", [0, 255])
def test_the_largest_numbers_do_not_overflow(number: int, *, rounds: bool) -> None:
    """All of -8, or all of 7, times the largest activations of one sign: exact, but for the row's scale."""
    numbers = torch.full((5, 20_480), number, dtype=torch.uint8)
    weight = Weight(numbers, torch.ones(320, 5, dtype=torch.bfloat16))
    for sign in (1.0, -1.0):
        x = torch.full((9, 40_960), sign)
        wanted = torch.full((9, 5), sign * (7 if number else -8) * 40_960)
        torch.testing.assert_close(weight.times(x, rounds=rounds), wanted, rtol=1e-5, atol=0)


@BOTH
def test_a_row_is_multiplied_the_same_in_any_company(*, rounds: bool) -> None:
    x, weight = operands(15, 70, 576)
    together = weight.times(x, rounds=rounds)
    for row in range(15):
        assert torch.equal(weight.times(x[row : row + 1], rounds=rounds)[0], together[row])
    for end in range(2, 15):
        assert torch.equal(weight.times(x[:end], rounds=rounds), together[:end])


@BOTH
def test_threads_change_nothing(*, rounds: bool) -> None:
    x, weight = operands(11, 1000, 192)
    found = []
    for num_threads in (1, 2, 5):
        torch.set_num_threads(num_threads)
        found.append(weight.times(x, rounds=rounds))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


@BOTH
def test_what_is_not_finite_stays_in_its_row(*, rounds: bool) -> None:
    x, weight = operands(6, 40, 64)
    clean = weight.times(x, rounds=rounds)
    x[1, 3], x[2, 0], x[4, 63] = float("nan"), float("inf"), float("-inf")
    found = weight.times(x, rounds=rounds)
    assert found[1].isnan().all() and not found[[2, 4]].isfinite().any()
    assert not rounds or found[[2, 4]].isnan().all()
    assert torch.equal(found[[0, 3, 5]], clean[[0, 3, 5]])


@BOTH
def test_rows_of_zeros_and_no_rows(*, rounds: bool) -> None:
    x, weight = operands(3, 40, 64)
    x[1] = 0
    assert (weight.times(x, rounds=rounds)[1] == 0).all()
    assert weight.times(x[:0], rounds=rounds).shape == (0, 40)


@BOTH
@pytest.mark.parametrize("size", [1e-34, 1e30])
def test_very_small_and_very_large_rows_are_as_exact(size: float, *, rounds: bool) -> None:
    x, weight = operands(2, 40, 64)
    x = x * size
    assert_close(weight.times(x, rounds=rounds), x, weight.exact(), rounds=rounds)


def test_several_threads_at_once() -> None:
    cases = [operands(rows, 300, 128) for rows in (1, 2, 7, 33)] * 8
    alone = [weight.times(x, rounds=True) for x, weight in cases]
    with ThreadPoolExecutor(4) as threads:
        found = threads.map(lambda case: case[1].times(case[0], rounds=True), cases)
        assert all(torch.equal(one, wanted) for one, wanted in zip(found, alone, strict=True))
