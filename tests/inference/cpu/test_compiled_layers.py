"""Compiled layers compute what torch computes, for any batch, and read nothing that is not theirs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PretrainedConfig, Qwen3Config

from inference.attention.base import NAME, AttentionMetadata, SequenceSlice, register
from inference.attention.cpu import CpuAttention
from inference.attention.reference import ReferenceAttention
from inference.cpu import compiler
from inference.cpu.matmul import ROUNDED
from inference.execution.kv_cache import KVCache
from inference.fused.cpu import CpuFusedModel, can_compile
from inference.fused.cpu_compiled import CompiledLayers
from inference.fused.int4_blocked import BlockedInt4Linear, to_blocked
from inference.quantization.linear import allow_rounding
from inference.quantization.registry import quantization_config
from inference.quantization.w8a8 import MOST_EXACT_ROWS
from tests.inference.cpu.guarded import guarded

pytestmark = pytest.mark.skipif(not compiler.works(), reason="nothing can be compiled here")

SHAPE = {
    "vocab_size": 64,
    "num_hidden_layers": 2,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
}
# heads in groups of 3, of 1, of 7; sizes that are no multiple of a register; norms of heads; a window
CONFIGS: dict[str, PretrainedConfig] = {
    "grouped": LlamaConfig(
        **SHAPE,
        hidden_size=96,
        intermediate_size=100,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=64,
    ),
    "odd": LlamaConfig(
        **SHAPE,
        hidden_size=40,
        intermediate_size=77,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=20,
        attention_bias=True,
    ),
    "sliding": MistralConfig(
        **SHAPE,
        hidden_size=64,
        intermediate_size=64,
        num_attention_heads=7,
        num_key_value_heads=1,
        head_dim=24,
        sliding_window=9,
    ),
    "normed": Qwen3Config(
        **SHAPE,
        hidden_size=64,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=80,
    ),
}
# groups of 32 inputs, of 64 and of 128; biases, norms of heads and a window again
INT4_CONFIGS: dict[str, PretrainedConfig] = {
    "int4, grouped": LlamaConfig(
        **SHAPE,
        hidden_size=96,
        intermediate_size=160,
        num_attention_heads=6,
        num_key_value_heads=2,
        head_dim=64,
        attention_bias=True,
    ),
    "int4, sliding": MistralConfig(
        **SHAPE,
        hidden_size=64,
        intermediate_size=256,
        num_attention_heads=7,
        num_key_value_heads=1,
        head_dim=32,
        sliding_window=9,
    ),
    "int4, normed": Qwen3Config(
        **SHAPE,
        hidden_size=192,
        intermediate_size=96,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=80,
    ),
}
# (tokens cached before, new tokens): decode rows short and long, chunks at the start and in the middle; 1 and
# 4 tokens that many keys are shared out for
LENGTHS = [(6, 1), (0, 9), (300, 1), (13, 5), (0, 1), (290, 4), (3, 1), (270, 33)]


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(params=[*CONFIGS, *INT4_CONFIGS])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    """A tiny model with int8 or int4 weights."""
    is_int4 = request.param in INT4_CONFIGS
    config = INT4_CONFIGS[request.param] if is_int4 else CONFIGS[request.param]
    quantized = quantized_model(config, tmp_path, "int4" if is_int4 else "int8")
    to_blocked(quantized)
    return quantized


@pytest.fixture
def int8_model(tmp_path: Path) -> Any:
    return quantized_model(CONFIGS["grouped"], tmp_path, "int8")


def plain_model(config: PretrainedConfig) -> Any:
    torch.manual_seed(config.hidden_size)
    plain = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=torch.float32)
    for parameter in plain.parameters():
        parameter.data.normal_(0, 0.2) if parameter.dim() > 1 else parameter.data.uniform_(0.5, 1.5)
    return plain.eval()


def quantized_model(config: PretrainedConfig, folder: Path, method: str) -> Any:
    plain_model(config).save_pretrained(folder)
    quantized = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=quantization_config(method, quantize_head=True)
    ).eval()
    register()
    quantized.set_attn_implementation(NAME)
    return quantized


def by_torch(model: Any) -> CpuFusedModel:
    """The same model, computed by torch in float32: int4 weights as they stand for, int8 ones as they are."""
    twin = copy.deepcopy(model)
    for name, module in list(twin.named_modules()):
        if isinstance(module, BlockedInt4Linear):
            plain = nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)
            plain.weight.data = module.exact_weight()
            plain.bias = module.bias
            twin.set_submodule(name, plain)
    fused = CpuFusedModel(twin)
    fused.compiled = None
    return fused


def batch(block_size: int, *, times: int = 1) -> tuple[AttentionMetadata, Tensor, Tensor, int]:
    """LENGTHS in blocks of no order: metadata, token ids, positions, and how many blocks they take."""
    wanted = LENGTHS * times
    total = sum(-(-(cached + new) // block_size) for cached, new in wanted)
    free = torch.randperm(total).tolist()
    positions: list[int] = []
    slices, slots, offset = [], [], 0
    for cached, new in wanted:
        table = [free.pop() for _ in range(-(-(cached + new) // block_size))]
        own = range(cached, cached + new)
        slots += [table[position // block_size] * block_size + position % block_size for position in own]
        positions += own
        slices.append(SequenceSlice(offset=offset, num_tokens=new, kv_len=cached + new, block_table=table))
        offset += new
    metadata = AttentionMetadata(sequences=slices, slots=torch.tensor(slots))
    return metadata, torch.randint(0, 64, (offset,)), torch.tensor(positions), total


def filled(model: Any, num_blocks: int, block_size: int) -> KVCache:
    """A pool of random keys and values that ends where memory does."""
    config = model.config.get_text_config()
    cache = KVCache(
        config, num_blocks=num_blocks, block_size=block_size, dtype=torch.float32, device=torch.device("cpu")
    )
    for pools in (cache.keys, cache.values):
        pools[:] = [guarded(pool.normal_()) for pool in pools]
    return cache


def copied(cache: KVCache) -> KVCache:
    twin = object.__new__(KVCache)
    twin.num_blocks, twin.block_size = cache.num_blocks, cache.block_size
    twin.keys, twin.values = [pool.clone() for pool in cache.keys], [pool.clone() for pool in cache.values]
    return twin


@torch.inference_mode()
@pytest.mark.parametrize("block_size", [1, 3, 16])
def test_a_mixed_batch_is_what_torch_computes(model: Any, block_size: int) -> None:
    metadata, token_ids, positions, num_blocks = batch(block_size)
    cache = filled(model, num_blocks, block_size)
    twin = copied(cache)
    reference, fused = by_torch(model), CpuFusedModel(model)
    assert fused.compiled is not None
    found = fused(token_ids, positions, logit_rows=None, attention=CpuAttention(cache, metadata))
    wanted = reference(token_ids, positions, logit_rows=None, attention=ReferenceAttention(twin, metadata))
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)
    for pool, other in zip((*cache.keys, *cache.values), (*twin.keys, *twin.values), strict=True):
        torch.testing.assert_close(pool, other, rtol=1e-3, atol=1e-3)


@torch.inference_mode()
def test_rounded_activations_change_little(model: Any) -> None:
    metadata, token_ids, positions, num_blocks = batch(16)
    cache = filled(model, num_blocks, 16)
    twin = copied(cache)
    exact = CpuFusedModel(model)(
        token_ids, positions, logit_rows=None, attention=CpuAttention(cache, metadata)
    )
    allow_rounding(model)
    rounded = CpuFusedModel(model)(
        token_ids, positions, logit_rows=None, attention=CpuAttention(twin, metadata)
    )
    assert not torch.equal(rounded, exact)
    assert float((rounded - exact).norm() / exact.norm()) < 2e-3


@torch.inference_mode()
def test_what_is_not_a_number_stays_in_its_sequence(model: Any) -> None:
    metadata, token_ids, positions, num_blocks = batch(16)
    cache = filled(model, num_blocks, 16)
    twin = copied(cache)
    fused = CpuFusedModel(model)
    clean = fused(token_ids, positions, logit_rows=None, attention=CpuAttention(cache, metadata))
    ill = metadata.sequences[2]
    for pool in twin.keys:
        pool[ill.block_table[(ill.kv_len - 2) // 16] * 16 + (ill.kv_len - 2) % 16] = float("nan")
    found = fused(token_ids, positions, logit_rows=None, attention=CpuAttention(twin, metadata))
    assert found[ill.offset].isnan().all()
    others = torch.arange(len(token_ids)) != ill.offset
    assert torch.equal(found[others], clean[others])


@torch.inference_mode()
def test_threads_change_nothing(model: Any) -> None:
    metadata, token_ids, positions, num_blocks = batch(16)
    cache = filled(model, num_blocks, 16)
    found = []
    for num_threads in (1, 2, 5):
        torch.set_num_threads(num_threads)
        attention = CpuAttention(copied(cache), metadata)
        found.append(CpuFusedModel(model)(token_ids, positions, logit_rows=None, attention=attention))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_other_weights_and_other_products_are_torchs(int8_model: Any) -> None:
    assert can_compile(int8_model)
    linear = int8_model.model.layers[1].mlp.down_proj
    linear.matmul = lambda x, weight, scale: x @ (weight * scale).t()
    assert not can_compile(int8_model)
    assert CpuFusedModel(int8_model).compiled is None


@torch.inference_mode()
def test_w8a8_is_computed_as_int8_where_activations_may_be_rounded(int8_model: Any, tmp_path: Path) -> None:
    """To 15 bits: steps of many tokens, too, which a GPU would multiply as int8."""
    metadata, token_ids, positions, num_blocks = batch(16, times=2)
    assert len(token_ids) > MOST_EXACT_ROWS
    model = quantized_model(CONFIGS["grouped"], tmp_path / "w8a8", "w8a8")
    assert not can_compile(model)  # a float32 that was asked for: the reference, in whole
    cache = filled(model, num_blocks, 16)
    found = []
    for one in (int8_model, model):
        allow_rounding(one)
        fused = CpuFusedModel(one)
        assert fused.compiled is not None and set(fused.compiled.products["kind"].flatten()) == {ROUNDED}
        attention = CpuAttention(copied(cache), metadata)
        found.append(fused(token_ids, positions, logit_rows=None, attention=attention))
    assert torch.equal(found[0], found[1])


def test_it_takes_no_memory_of_its_own_for_weights(model: Any) -> None:
    layers = CpuFusedModel(model).compiled
    assert isinstance(layers, CompiledLayers)
    assert layers.products["weight"][1, 1] == model.model.layers[1].self_attn.o_proj.weight.data_ptr()
    assert layers.products["weight"][0, 0] == model.model.layers[0].self_attn.q_proj.weight.data_ptr()
