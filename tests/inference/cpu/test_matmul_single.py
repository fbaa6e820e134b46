"""Compiled products of int8 weights are torch's, for every shape, wherever their memory lies."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor

from inference.cpu import compiler
from inference.cpu.matmul_single import multiply
from tests.inference.cpu.guarded import guarded

pytestmark = pytest.mark.skipif(not compiler.works(), reason="nothing can be compiled here")

SHAPES = [(1, 1, 1), (1, 5, 31), (2, 3, 33), (3, 77, 100), (4, 64, 64), (5, 129, 95), (33, 70, 576)]


def operands(num_rows: int, num_outputs: int, num_inputs: int) -> tuple[Tensor, Tensor, Tensor]:
    weight = torch.randint(-127, 128, (num_outputs, num_inputs), dtype=torch.int8)
    return torch.randn(num_rows, num_inputs), weight, torch.rand(num_outputs) + 0.1


def expected(x: Tensor, weight: Tensor, scale: Tensor) -> Tensor:
    return (x.double() @ weight.double().t() * scale).float()


def assert_close(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3 * float(wanted.abs().max()))


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_torchs_product(shape: tuple[int, int, int]) -> None:
    x, weight, scale = operands(*shape)
    assert_close(multiply(x, weight, scale), expected(x, weight, scale))


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_read_past_the_end(shape: tuple[int, int, int]) -> None:
    x, weight, scale = operands(*shape)
    found = multiply(guarded(x), guarded(weight), guarded(scale))
    assert torch.equal(found, multiply(x, weight, scale))


@pytest.mark.parametrize("start", [1, 3, 17])
def test_a_weight_may_begin_anywhere(start: int) -> None:
    x, weight, scale = operands(5, 40, 64)
    room = torch.zeros(weight.numel() + start, dtype=torch.int8)
    moved = room[start:].view(weight.shape).copy_(weight)
    assert torch.equal(multiply(x, moved, scale), multiply(x, weight, scale))


def test_the_largest_numbers_do_not_overflow() -> None:
    x = torch.ones(2, 40_000)
    weight = torch.full((5, 40_000), -128, dtype=torch.int8)
    assert_close(multiply(x, weight, torch.ones(5)), torch.full((2, 5), -128.0 * 40_000))


def test_what_is_not_finite_stays_in_its_row() -> None:
    x, weight, scale = operands(6, 40, 64)
    clean = multiply(x, weight, scale)
    x[1, 3], x[2, 0], x[4, 63] = float("nan"), float("inf"), float("-inf")
    found = multiply(x, weight, scale)
    assert found[[1, 2, 4]].isnan().all()
    assert torch.equal(found[[0, 3, 5]], clean[[0, 3, 5]])


def test_rows_of_zeros_and_no_rows() -> None:
    x, weight, scale = operands(3, 40, 64)
    x[1] = 0
    assert (multiply(x, weight, scale)[1] == 0).all()
    assert multiply(x[:0], weight, scale).shape == (0, 40)


def test_very_small_and_very_large_rows_are_as_exact() -> None:
    x, weight, scale = operands(2, 40, 64)
    for size in (1e-38, 1e-30, 1e30):
        assert_close(multiply(x * size, weight, scale) / size, expected(x, weight, scale))


def test_a_row_is_multiplied_the_same_in_any_company() -> None:
    x, weight, scale = operands(9, 70, 576)
    together = multiply(x, weight, scale)
    for row in range(9):
        assert torch.equal(multiply(x[row : row + 1], weight, scale)[0], together[row])


def test_several_threads_at_once() -> None:
    cases = [operands(rows, 300, 128) for rows in (1, 2, 7, 33)] * 8
    alone = [multiply(*case) for case in cases]
    with ThreadPoolExecutor(4) as threads:
        for found, wanted in zip(threads.map(lambda case: multiply(*case), cases), alone, strict=True):
            assert torch.equal(found, wanted)
