"""Compiled code writes nothing but its buffers, for any shape and whatever the default dtype is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import PretrainedConfig

from inference.attention.cpu import CpuAttention
from inference.cpu import buffers, compiler
from inference.cpu.matmul_single import multiply, multiply_bf16, multiply_int4
from inference.cpu.packing import pack
from inference.execution.kv_cache import KVCache
from inference.fused import bf16_linear
from inference.fused.cpu import CpuFusedModel
from inference.fused.int4_blocked import to_blocked
from inference.quantization import int4
from inference.quantization.linear import allow_rounding
from tests.inference.cpu import test_compiled_layers as layers
from tests.inference.cpu.guards import Guards, guards_around_buffers

pytestmark = pytest.mark.skipif(not compiler.works(), reason="nothing can be compiled here")

DEFAULTS = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
# rows, outputs, inputs: one of each, no multiples of a register or a block, more rows than a tile has
SHAPES = [(1, 1, 32), (1, 33, 96), (3, 77, 160), (5, 129, 64), (9, 31, 192), (33, 70, 96), (64, 1536, 576)]
# how weights are kept, and a shape that this way can have
MODELS: list[tuple[str, PretrainedConfig]] = [
    *(("int8", config) for config in layers.CONFIGS.values()),
    *(("int4", config) for config in layers.INT4_CONFIGS.values()),
    ("packed", layers.CONFIGS["normed"]),
    ("packed", layers.INT4_CONFIGS["int4, grouped"]),
]


@pytest.fixture(autouse=True)
def three_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=DEFAULTS, ids=str)
def default(request: pytest.FixtureRequest) -> Iterator[torch.dtype]:
    """What a library that loads in another thread may make of the process's default."""
    before = torch.get_default_dtype()
    yield request.param
    torch.set_default_dtype(before)


def products(num_rows: int, num_outputs: int, num_inputs: int) -> list[Any]:
    """Calls of each product, of rows and weights with guards of their own."""
    x = torch.randn(num_rows, num_inputs)
    weight = torch.randint(-127, 128, (num_outputs, num_inputs), dtype=torch.int8)
    numbers = torch.randint(0, 256, (num_outputs, num_inputs // 2), dtype=torch.uint8)
    scale = torch.rand(num_inputs // int4.group_of(num_inputs), num_outputs).bfloat16()
    words, scales = pack(numbers.view(torch.int32)), pack(scale.t())
    narrow = pack(torch.randn(num_outputs, num_inputs).bfloat16())
    steps = torch.rand(num_outputs)
    return [
        lambda: multiply(x, weight, steps),
        lambda: multiply_bf16(x, narrow, num_outputs),
        lambda: multiply_int4(x, words, scales, num_outputs, rounds=False),
        lambda: multiply_int4(x, words, scales, num_outputs, rounds=True),
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_products_write_what_is_theirs(shape: tuple[int, int, int], default: torch.dtype) -> None:
    calls = products(*shape)
    wanted = [call() for call in calls]
    torch.set_default_dtype(default)
    with guards_around_buffers() as guards:
        found = [call() for call in calls]
    assert guards.num_buffers >= 2 * len(calls)
    for one, other in zip(found, wanted, strict=True):
        assert one.dtype == torch.float32 and torch.equal(one, other)


@torch.inference_mode()
@pytest.mark.parametrize(("kind", "config"), MODELS, ids=lambda value: getattr(value, "model_type", value))
def test_layers_write_what_is_theirs(
    kind: str, config: PretrainedConfig, default: torch.dtype, tmp_path: Path
) -> None:
    model = model_of(kind, config, tmp_path)
    metadata, token_ids, positions, num_blocks = layers.batch(3)
    cache = layers.filled(model, num_blocks, 3)
    twin = layers.copied(cache)
    fused = CpuFusedModel(model)
    assert fused.compiled is not None
    wanted = fused(token_ids, positions, logit_rows=None, attention=CpuAttention(cache, metadata))
    torch.set_default_dtype(default)
    with guards_around_buffers() as guards:
        guard(guards, model, twin)
        found = fused(token_ids, positions, logit_rows=None, attention=CpuAttention(twin, metadata))
    assert guards.num_buffers > 2 * len(twin.keys) + 2
    assert torch.equal(found, wanted)
    for pool, other in zip((*twin.keys, *twin.values), (*cache.keys, *cache.values), strict=True):
        assert torch.equal(pool, other)


def model_of(kind: str, config: PretrainedConfig, folder: Path) -> Any:
    if kind == "packed":
        model = layers.plain_model(config).to(torch.bfloat16)
        bf16_linear.upcast_or_pack(model)
    else:
        model = layers.quantized_model(config, folder, kind)
        to_blocked(model)
    allow_rounding(model)
    return model


def guard(guards: Guards, model: Any, cache: KVCache) -> None:
    """The pool, and the embeddings that the layers turn into states where they lie."""
    for pools in (cache.keys, cache.values):
        pools[:] = [guards.around(pool) for pool in pools]
    model.model.embed_tokens.register_forward_hook(lambda _module, _inputs, rows: guards.around(rows))


def test_guards_find_a_buffer_that_is_too_small(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a product in the default dtype was: it had half of the bytes that were written."""
    guards = Guards()

    def new(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        if dtype != torch.float32:
            return guards.new(shape, dtype)
        return guards.new([shape[0], shape[1] // 2], dtype).as_strided((*shape,), (shape[1], 1))

    monkeypatch.setattr(buffers, "new", new)
    multiply(torch.randn(5, 64), torch.ones(96, 64, dtype=torch.int8), torch.ones(96))
    with pytest.raises(AssertionError, match="bytes behind a buffer of 960"):
        guards.check()
