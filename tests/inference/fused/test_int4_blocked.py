"""INT4 on a CPU: compiled layers take the file's weights in blocks, and give what the dequantized ones do."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from inference.attention.base import Layout, Stretch
from inference.attention.cpu import CpuStep
from inference.config import EngineConfig
from inference.cpu import compiler
from inference.cpu.matmul import INT4_EXACT, INT4_ROUNDED, PACKED
from inference.execution.kv_cache import KVCache
from inference.fused.cpu import FusedCpuModel
from inference.fused.int4_blocked import BlockedInt4Linear
from inference.models.loader import LoadedModel, load_model
from inference.quantization.int4 import Int4Linear
from inference.quantization.layer_error import sketch, sketched_errors
from inference.quantization.linear import allow_rounding
from tests.inference import tiny
from tests.inference.quantization.wide import wide_folder

pytestmark = pytest.mark.skipif(not compiler.works(), reason="nothing can be compiled here")

SETTINGS = EngineConfig(device="cpu", dtype="float32", quantization="int4", quantize_head=True)
REFERENCE = replace(SETTINGS, fused_layers=False)
NUM_TOKENS = 40


def layer(num_outputs: int, *, bias: bool) -> Int4Linear:
    made = Int4Linear(
        192, num_outputs, bias=bias, dtype=torch.float32, is_quantized=True, device=torch.device("cpu")
    )
    for name, tensor in Int4Linear.quantize(torch.randn(num_outputs, 192)).items():
        made.get_parameter(name).data = tensor
    if bias:
        made.get_parameter("bias").data.normal_()
    return made


@torch.inference_mode()
def logits(loaded: LoadedModel) -> Tensor:
    """Of a fused model, float32 [NUM_TOKENS, vocab]: a prompt in two parts, so that the pool is read."""
    token_ids, positions = torch.tensor(tiny.prompt(NUM_TOKENS)), torch.arange(NUM_TOKENS)
    blocks = range(-(-NUM_TOKENS // 16))
    cache = KVCache(
        loaded.text_config, num_blocks=len(blocks), block_size=16, dtype=loaded.dtype, device=loaded.device
    )
    fused, found = FusedCpuModel(loaded.model), []
    for start, end in ((0, 37), (37, 38), (38, NUM_TOKENS)):
        stretch = Stretch(offset=0, num_tokens=end - start, kv_len=end, block_table=blocks)
        step = CpuStep(cache, Layout(stretches=[stretch], slots=positions[start:end]))
        found.append(fused(token_ids[start:end], positions[start:end], logit_rows=None, step=step))
    return torch.cat(found).float()


def kinds(loaded: LoadedModel) -> set[int]:
    compiled = FusedCpuModel(loaded.model).compiled
    return set() if compiled is None else set(compiled.products["kind"].flatten().tolist())


@torch.no_grad()
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("num_outputs", [1, 64, 77])
def test_a_layer_in_blocks_is_the_same_layer(num_outputs: int, *, bias: bool) -> None:
    plain = layer(num_outputs, bias=bias)
    blocked = BlockedInt4Linear.of(plain)
    assert torch.equal(blocked.exact_weight(), plain.exact_weight())
    x = torch.randn(2, 5, 192)
    torch.testing.assert_close(blocked(x), plain(x), rtol=1e-4, atol=1e-4)
    blocked.allow_rounding()
    off = float((blocked(x) - plain(x)).norm() / plain(x).norm())
    assert 0 < off < 1e-3
    assert blocked(x.bfloat16()).dtype == torch.bfloat16


def test_a_weight_may_begin_anywhere_in_a_mapped_file() -> None:
    plain = layer(64, bias=False)
    expected = plain.exact_weight()
    for name in plain.PARAMETERS:
        tensor = plain.get_parameter(name).data
        room = bytearray(tensor.nbytes + 1)
        moved = torch.frombuffer(room, dtype=torch.uint8, offset=1).view(tensor.dtype).view(tensor.shape)
        plain.get_parameter(name).data = moved.copy_(tensor)
        assert plain.get_parameter(name).data_ptr() % 2
    assert torch.equal(BlockedInt4Linear.of(plain).exact_weight(), expected)


@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])  # plain; with biases; with norms of the heads
def test_compiled_layers_give_the_logits_of_dequantized_weights(name: str, tmp_path: Path) -> None:
    folder = wide_folder(tmp_path, name)
    loaded, reference = load_model(folder, SETTINGS), load_model(folder, REFERENCE)
    expected = logits(reference)
    assert kinds(loaded) == {INT4_EXACT} and not kinds(reference)
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-3, atol=1e-3)
    allow_rounding(loaded.model)
    assert kinds(loaded) == {INT4_ROUNDED}
    found = logits(loaded)
    assert not torch.equal(found, expected)
    assert float((found - expected).norm() / expected.norm()) < 2e-3


@pytest.mark.parametrize(("dtype", "rounds"), [("auto", True), ("float32", False)])
def test_a_float32_that_was_asked_for_is_not_rounded(
    tmp_path: Path, dtype: Literal["auto", "float32"], *, rounds: bool
) -> None:
    loaded = load_model(wide_folder(tmp_path), replace(SETTINGS, dtype=dtype))
    layers = [one for one in loaded.model.modules() if isinstance(one, BlockedInt4Linear)]
    assert {one.rounds for one in layers} == {rounds}


@pytest.mark.parametrize("quantize_head", [False, True])
def test_a_bfloat16_folder_stays_narrow_beside_it(tmp_path: Path, *, quantize_head: bool) -> None:
    folder = wide_folder(tmp_path / "exact")
    model: Any = load_model(folder, EngineConfig(device="cpu", dtype="bfloat16", fused_layers=False)).model
    model.save_pretrained(tmp_path / "bfloat16")
    tiny.tiny_tokenizer().save_pretrained(tmp_path / "bfloat16")
    settings = replace(SETTINGS, quantize_head=quantize_head)
    loaded = load_model(tmp_path / "bfloat16", settings)
    assert loaded.model.model.embed_tokens.weight.dtype == torch.bfloat16
    layers = [one for one in loaded.model.modules() if isinstance(one, BlockedInt4Linear)]
    assert len(layers) == 3 * 7 + quantize_head
    assert {one.weight_scale.dtype for one in layers} == {torch.bfloat16}
    assert kinds(loaded) == {INT4_EXACT} and PACKED not in kinds(loaded)
    expected = logits(load_model(tmp_path / "bfloat16", replace(settings, fused_layers=False)))
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-3, atol=1e-3)


def test_no_step_dequantizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = load_model(wide_folder(tmp_path), SETTINGS)

    def dequantized(*_: Any) -> Tensor:
        raise AssertionError("a whole weight became floats")

    for owner in (Int4Linear, BlockedInt4Linear):
        monkeypatch.setattr(owner, "exact_weight", dequantized)
    assert logits(loaded).isfinite().all()
    allow_rounding(loaded.model)
    assert logits(loaded).isfinite().all()


@torch.no_grad()
def test_families_that_are_not_fused_use_it_as_well(tmp_path: Path) -> None:
    folder = wide_folder(tmp_path, "gemma2")
    loaded, reference = load_model(folder, SETTINGS), load_model(folder, REFERENCE)
    assert not [one for one in loaded.model.modules() if type(one) is Int4Linear]
    for model in (loaded.model, reference.model):
        model.set_attn_implementation("eager")
    token_ids = torch.tensor([tiny.prompt(NUM_TOKENS)])
    found, expected = (model(token_ids).logits for model in (loaded.model, reference.model))
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


def test_layers_that_end_within_a_block_stay_as_they_are(tmp_path: Path) -> None:
    """Their head need not be joined to another."""
    folder = wide_folder(tmp_path, num_key_value_heads=1, vocab_size=301)
    loaded = load_model(folder, SETTINGS)
    assert type(loaded.model.lm_head) is BlockedInt4Linear
    assert type(loaded.model.model.layers[0].mlp.down_proj) is Int4Linear
    assert not kinds(loaded)
    expected = logits(load_model(folder, REFERENCE))
    torch.testing.assert_close(logits(loaded), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("has_compiler", [False, True])
def test_the_reference_is_what_the_file_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, has_compiler: bool
) -> None:
    """Where layers are not to be fused, or nothing can be compiled."""
    monkeypatch.setattr("inference.cpu.compiler.works", lambda: has_compiler)
    loaded = load_model(wide_folder(tmp_path), REFERENCE if has_compiler else SETTINGS)
    assert {type(one) for one in loaded.model.modules() if hasattr(one, "weight_scale")} == {Int4Linear}


def test_it_takes_the_memory_of_one_copy(tmp_path: Path) -> None:
    folder = wide_folder(tmp_path, vocab_size=320)
    loaded, reference = load_model(folder, SETTINGS), load_model(folder, REFERENCE)
    assert loaded.weight_bytes == reference.weight_bytes
    FusedCpuModel(loaded.model)
    gc.collect()
    assert loaded.weight_bytes == reference.weight_bytes
    attention = loaded.model.model.layers[0].self_attn
    parts = (attention.q_proj, attention.k_proj, attention.v_proj)
    assert len({one.weight.untyped_storage().data_ptr() for one in parts}) == 1
    assert torch.equal(
        attention.k_proj.exact_weight(), reference.model.model.layers[0].self_attn.k_proj.exact_weight()
    )


def test_errors_are_those_of_the_files_weights(tmp_path: Path) -> None:
    folder = wide_folder(tmp_path)
    found, expected = (sketch(load_model(folder, settings).model) for settings in (SETTINGS, REFERENCE))
    assert {error.weight_error for error in sketched_errors(expected, found)} == {0.0}
