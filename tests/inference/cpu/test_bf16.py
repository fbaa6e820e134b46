"""Compiled products of packed bfloat16 weights are those of the same weights in float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from inference.cpu import compiler
from inference.cpu.matmul_single import multiply_packed
from inference.cpu.packing import pack
from tests.inference.cpu.guarded import guarded

pytestmark = pytest.mark.skipif(not compiler.works(), reason="nothing can be compiled here")

SHAPES = [
    (1, 1, 1),
    (1, 32, 33),
    (2, 33, 1),
    (3, 77, 100),
    (4, 64, 64),
    (5, 129, 95),
    (9, 31, 7),
    (33, 70, 576),
]


def operands(num_rows: int, num_outputs: int, num_inputs: int) -> tuple[Tensor, Tensor]:
    return torch.randn(num_rows, num_inputs), torch.randn(num_outputs, num_inputs, dtype=torch.bfloat16)


@pytest.mark.parametrize("shape", SHAPES)
def test_it_is_torchs_product_in_float32(shape: tuple[int, int, int]) -> None:
    x, weight = operands(*shape)
    expected = (x.double() @ weight.double().t()).float()
    torch.testing.assert_close(multiply_packed(x, pack(weight), len(weight)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_read_past_the_end(shape: tuple[int, int, int]) -> None:
    x, weight = operands(*shape)
    found = multiply_packed(guarded(x), guarded(pack(weight)), len(weight))
    assert torch.equal(found, multiply_packed(x, pack(weight), len(weight)))


def test_a_row_is_multiplied_the_same_in_any_company() -> None:
    x, weight = operands(15, 70, 576)
    together = multiply_packed(x, pack(weight), 70)
    for row in range(15):
        assert torch.equal(multiply_packed(x[row : row + 1], pack(weight), 70)[0], together[row])


def test_what_is_not_finite_stays_in_its_row() -> None:
    x, weight = operands(6, 40, 64)
    clean = multiply_packed(x, pack(weight), 40)
    x[1, 3], x[2, 0] = float("nan"), float("inf")
    found = multiply_packed(x, pack(weight), 40)
    assert found[1].isnan().all() and not found[2].isfinite().any()
    assert torch.equal(found[[0, 3, 4, 5]], clean[[0, 3, 4, 5]])


def test_no_rows() -> None:
    x, weight = operands(3, 40, 64)
    assert multiply_packed(x[:0], pack(weight), 40).shape == (0, 40)
