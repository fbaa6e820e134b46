"""What compiled code would misread is refused by name before it gets an address."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from inference.attention.base import Layout, Stretch
from inference.cpu import compiler
from inference.cpu.buffers import WrongBuffer, address_of, check_below
from inference.cpu.matmul_single import multiply, multiply_int4, multiply_packed
from inference.cpu.packing import pack
from inference.execution.kv_cache import KVCache
from inference.fused.cpu import FusedCpuModel
from inference.fused.cpu_compiled import CompiledLayers
from tests.inference.cpu import test_compiled_layers as layers

pytestmark = pytest.mark.skipif(not compiler.works(), reason="nothing can be compiled here")


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(3, 4, dtype=torch.bfloat16),
        torch.ones(3, 4, dtype=torch.float64),
        torch.ones(12, dtype=torch.float32),
        torch.ones(4, 3, dtype=torch.float32),
        torch.ones(4, 3, dtype=torch.float32).t(),
        torch.ones(3, 8, dtype=torch.float32)[:, ::2],
        torch.ones(3, 4, dtype=torch.float32, device="meta"),
    ],
    ids=["bfloat16", "float64", "flat", "turned", "transposed", "with gaps", "no memory"],
)
def test_an_address_is_given_of_what_was_asked_for_alone(tensor: Tensor) -> None:
    right = torch.ones(3, 4, dtype=torch.float32)
    assert address_of(right, "the rows", torch.float32, 3, 4) == right.data_ptr()
    with pytest.raises(WrongBuffer, match=r"takes the rows as torch.float32 \[3, 4\]"):
        address_of(tensor, "the rows", torch.float32, 3, 4)


def test_numbers_are_within_what_they_number() -> None:
    numbers = torch.tensor([0, 6, 3])
    check_below(numbers.numpy(), 7, "slot")
    check_below(numbers[:0].numpy(), 0, "slot")
    for wrong in (7, 2**40, -1):
        numbers[1] = wrong
        with pytest.raises(WrongBuffer, match="slot"):
            check_below(numbers.numpy(), 7, "slot")


X, INT8, STEPS = torch.ones(2, 64), torch.ones(40, 64, dtype=torch.int8), torch.ones(40)
NARROW = pack(torch.ones(40, 64, dtype=torch.bfloat16))
WORDS, SCALES = pack(torch.ones(40, 8, dtype=torch.int32)), pack(torch.ones(40, 2, dtype=torch.bfloat16))


@pytest.mark.parametrize(
    "call",
    [
        lambda: multiply(X[:, :32], INT8, STEPS),
        lambda: multiply(X, INT8.float(), STEPS),
        lambda: multiply(X, INT8, STEPS[:39]),
        lambda: multiply(X, INT8, STEPS.bfloat16()),
        lambda: multiply_packed(X, NARROW, 65),
        lambda: multiply_packed(X, NARROW.float(), 40),
        lambda: multiply_packed(X[:, :63], NARROW, 40),
        lambda: multiply_int4(X, WORDS, SCALES, 65, rounds=True),
        lambda: multiply_int4(X, WORDS, SCALES.float(), 40, rounds=False),
        lambda: multiply_int4(X, WORDS, SCALES[:, :0], 40, rounds=False),
        lambda: multiply_int4(torch.ones(2, 96), WORDS, SCALES, 40, rounds=True),
        lambda: multiply_int4(torch.ones(2, 128), WORDS, SCALES, 40, rounds=True),
    ],
)
def test_a_product_refuses_what_does_not_fit_together(call: Callable[[], Tensor]) -> None:
    with pytest.raises(WrongBuffer):
        call()


@pytest.fixture
def compiled(tmp_path: Path) -> CompiledLayers:
    found = FusedCpuModel(layers.quantized_model(layers.CONFIGS["grouped"], tmp_path, "int8")).compiled
    assert found is not None
    return found


def arguments(num_tokens: int = 5) -> dict[str, Any]:
    """Of a prompt in blocks 1 and 3 of a pool of four blocks of 3 slots."""
    cache = KVCache(
        layers.CONFIGS["grouped"],
        num_blocks=4,
        block_size=3,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    stretch = Stretch(offset=0, num_tokens=num_tokens, kv_len=num_tokens, block_table=[1, 3])
    slots = torch.tensor([3, 4, 5, 9, 10])[:num_tokens]
    turn = torch.ones(num_tokens, 64)
    states = torch.ones(num_tokens, 96)
    return {"x": states, "cos": turn, "sin": turn, "cache": cache, "layout": Layout([stretch], slots)}


def with_stretch(**changes: Any) -> dict[str, Any]:
    layout: Layout = arguments()["layout"]
    return {"layout": replace(layout, stretches=[replace(layout.stretches[0], **changes)])}


def with_pool(*, layer: int, dtype: torch.dtype = torch.float32, num_slots: int = 12) -> dict[str, Any]:
    cache: KVCache = arguments()["cache"]
    cache.values[layer] = torch.zeros(num_slots, 2, 64, dtype=dtype)
    return {"cache": cache}


@torch.inference_mode()
@pytest.mark.parametrize(
    "changes",
    [
        {"x": torch.ones(5, 96, dtype=torch.bfloat16)},
        {"x": torch.ones(5, 95)},
        {"x": torch.ones(96, 5).t()},
        {"x": torch.ones(4, 96)},
        {"cos": torch.ones(5, 64, dtype=torch.float64)},
        {"sin": torch.ones(5, 32)},
        {"layout": replace(arguments()["layout"], slots=torch.tensor([3, 4, 5, 9, 12]))},
        {"layout": replace(arguments()["layout"], slots=torch.tensor([3, 4, 5, 9, -1]))},
        {"layout": replace(arguments()["layout"], slots=torch.tensor([3, 4, 5, 9]))},
        {"layout": replace(arguments()["layout"], slots=torch.arange(5, dtype=torch.int32))},
        {"layout": replace(arguments()["layout"], stretches=[])},
        with_stretch(block_table=[1]),
        with_stretch(block_table=[1, 4]),
        with_stretch(block_table=[1, -1]),
        with_stretch(kv_len=4),
        with_stretch(num_tokens=4),
        with_stretch(offset=1),
        with_pool(layer=1, dtype=torch.bfloat16),
        with_pool(layer=0, num_slots=11),
    ],
)
def test_layers_refuse_a_step_that_would_leave_their_buffers(
    compiled: CompiledLayers, changes: dict[str, Any]
) -> None:
    with pytest.raises(WrongBuffer):
        compiled(**arguments() | changes)
    compiled(**arguments())  # which is a step like any other


def test_layers_refuse_weights_of_another_kind_than_they_were_made_for(tmp_path: Path) -> None:
    model = layers.quantized_model(layers.CONFIGS["grouped"], tmp_path, "int8")
    model.model.layers[1].mlp.down_proj.weight_scale.data = torch.ones(96, 1, dtype=torch.float64)
    with pytest.raises(WrongBuffer, match="int8 scales"):
        FusedCpuModel(model)
