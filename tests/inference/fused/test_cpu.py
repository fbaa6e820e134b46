"""Layers fused for CPUs compute what transformers' own do, from the same memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from inference.attention.base import NAME, Layout, Stretch, register
from inference.attention.cpu import CpuStep
from inference.execution.kv_cache import KVCache
from inference.fused.cpu import FusedCpuModel
from inference.fused.supported import can_fuse
from inference.fused.weight_layout import join_input_major, transpose_linear_weights
from inference.quantization.registry import quantization_config
from tests.inference import tiny

NUM_TOKENS, BLOCK_SIZE = 30, 4


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def step_of(model: Any) -> CpuStep:
    """One sequence of NUM_TOKENS tokens, and a pool of its own."""
    num_blocks = -(-NUM_TOKENS // BLOCK_SIZE)
    cache = KVCache(
        model.config, num_blocks=num_blocks, block_size=BLOCK_SIZE, dtype=model.dtype, device=model.device
    )
    stretch = Stretch(offset=0, num_tokens=NUM_TOKENS, kv_len=NUM_TOKENS, block_table=range(num_blocks))
    return CpuStep(cache, Layout(stretches=[stretch], slots=torch.arange(NUM_TOKENS)))


@torch.inference_mode()
def logits(model: Any) -> tuple[Tensor, Tensor]:
    """By transformers' forward and by the fused one: `[NUM_TOKENS, vocab]` each."""
    register()
    model.set_attn_implementation(NAME)
    token_ids, positions = torch.tensor(tiny.prompt(NUM_TOKENS)), torch.arange(NUM_TOKENS)
    own = model(
        input_ids=token_ids[None], position_ids=positions[None], use_cache=False, paged_step=step_of(model)
    ).logits[0]
    fused = FusedCpuModel(model)(token_ids, positions, logit_rows=None, step=step_of(model))
    return own, fused


@pytest.mark.parametrize("name", tiny.LLAMA_LIKE)
def test_fused_layers_give_the_logits_of_transformers_own(name: str) -> None:
    own, fused = logits(tiny.tiny_model(name))
    torch.testing.assert_close(fused, own, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["qwen2", "qwen3"])  # with biases; with norms of the heads
def test_quantized_layers_are_fused_as_they_are(name: str, tmp_path: Path) -> None:
    tiny.tiny_model(name).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(
        tmp_path, dtype=torch.float32, quantization_config=quantization_config("int8", quantize_head=True)
    ).eval()
    assert can_fuse(model)
    own, fused = logits(model)
    torch.testing.assert_close(fused, own, rtol=1e-4, atol=1e-4)


def test_in_bfloat16_they_differ_by_its_roundings_alone() -> None:
    own, fused = logits(tiny.tiny_model("qwen3").to(torch.bfloat16))
    assert float((fused.float() - own.float()).norm() / own.float().norm()) < 0.02


def test_only_known_families_can_be_fused() -> None:
    assert can_fuse(tiny.tiny_model("llama"))
    assert not can_fuse(tiny.tiny_model("gemma2"))
    gelu = tiny.tiny_model("llama")
    gelu.config.hidden_act = "gelu"
    assert not can_fuse(gelu)


def test_the_models_own_weights_become_views_of_the_joined_ones() -> None:
    model = tiny.tiny_model("llama")
    before = {name: parameter.clone() for name, parameter in model.named_parameters()}
    transpose_linear_weights(model)
    first, second = FusedCpuModel(model), FusedCpuModel(model)
    attention = model.model.layers[0].self_attn
    whole = first.layers[0].qkv.keywords["weight"]  # type: ignore[attr-defined]
    assert attention.k_proj.weight.untyped_storage().data_ptr() == whole.untyped_storage().data_ptr()
    assert whole.data_ptr() == second.layers[0].qkv.keywords["weight"].data_ptr()  # type: ignore[attr-defined]
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name]), name


def test_joined_weights_are_input_major() -> None:
    parts = [torch.nn.Parameter(torch.randn(rows, 5)) for rows in (2, 4)]
    expected = torch.cat([part.data for part in parts])
    whole = join_input_major(parts)
    assert torch.equal(whole, expected) and whole.stride() == (1, 6)
    assert join_input_major(parts).data_ptr() == whole.data_ptr(), "copied again"
    assert join_input_major(parts[1:]).data_ptr() != whole.data_ptr(), "a part alone is not the whole"


def test_float_weights_load_no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a second or more at every start, and is of no use to them."""

    def loaded() -> bool:
        raise AssertionError("the compiler was loaded")

    monkeypatch.setattr("inference.cpu.compiler.works", loaded)
    assert FusedCpuModel(tiny.tiny_model("llama")).compiled is None
