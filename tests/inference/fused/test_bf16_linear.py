"""A bfloat16 folder on a CPU: half the memory of float32, and the same numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, LlamaConfig, PretrainedConfig, Qwen2Config

from inference.attention.base import NAME, AttentionMetadata, SequenceSlice
from inference.attention.cpu import CpuAttention
from inference.attention.reference import ReferenceAttention
from inference.config import EngineConfig, Quantization, RevisionSpec
from inference.cpu import compiler
from inference.cpu.packing import pack, unpack
from inference.execution.build import build_engine
from inference.execution.kv_cache import KVCache
from inference.fused.bf16_linear import Bf16Embedding, PackedLinear
from inference.fused.cpu import CpuFusedModel
from inference.models.loader import LoadedModel, load_model
from inference.quantization.int8 import Int8Linear
from inference.quantization.layer_error import sketch, sketched_errors
from tests.inference import tiny

pytestmark = pytest.mark.skipif(not compiler.works(), reason="nothing can be compiled here")

SHAPE = {
    "vocab_size": 301,  # no multiple of a block
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "tied": LlamaConfig(**SHAPE, intermediate_size=96, tie_word_embeddings=True),
    "untied": LlamaConfig(**SHAPE, intermediate_size=96, tie_word_embeddings=False, head_dim=48),
    "biased": Qwen2Config(**SHAPE, intermediate_size=128, tie_word_embeddings=False),
    "no whole blocks": LlamaConfig(**SHAPE, intermediate_size=100, tie_word_embeddings=True),
}
SETTINGS = EngineConfig(device="cpu", dtype="float32")
NUM_TOKENS = 40


def folder_of(config: PretrainedConfig, folder: Path, dtype: torch.dtype = torch.bfloat16) -> Path:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    for name, parameter in model.named_parameters():
        parameter.data.normal_(0, 0.3)
        if name.endswith("norm.weight"):
            parameter.data.uniform_(0.5, 1.5)
    model.to(dtype).save_pretrained(folder)
    tiny.tiny_tokenizer().save_pretrained(folder)
    return folder


@torch.inference_mode()
def logits(loaded: LoadedModel) -> dict[str, torch.Tensor]:
    """By compiled layers, by torch, and by transformers' own forward, of the same tokens: [tokens, vocab]."""
    token_ids, positions = torch.tensor(tiny.prompt(NUM_TOKENS)), torch.arange(NUM_TOKENS)
    blocks = range(-(-NUM_TOKENS // 16))
    sequence = SequenceSlice(offset=0, num_tokens=NUM_TOKENS, kv_len=NUM_TOKENS, block_table=blocks)
    metadata = AttentionMetadata(sequences=[sequence], slots=positions)

    def cache() -> KVCache:
        config = loaded.text_config
        return KVCache(
            config, num_blocks=len(blocks), block_size=16, dtype=loaded.dtype, device=loaded.device
        )

    assert loaded.model.config._attn_implementation == NAME
    own = loaded.model(
        input_ids=token_ids[None],
        position_ids=positions[None],
        use_cache=False,
        attention_backend=CpuAttention(cache(), metadata),
    )
    fused = CpuFusedModel(loaded.model)
    return {
        "transformers": own.logits[0],
        "compiled": fused(token_ids, positions, logit_rows=None, attention=CpuAttention(cache(), metadata)),
        "torch": fused(
            token_ids, positions, logit_rows=None, attention=ReferenceAttention(cache(), metadata)
        ),
    }


@pytest.mark.parametrize("shape", [(1, 1), (32, 5), (33, 7), (96, 64)])
def test_what_is_packed_can_be_unpacked(shape: tuple[int, int]) -> None:
    weight = torch.randn(shape, dtype=torch.bfloat16)
    packed = pack(weight)
    assert packed.shape == (-(-shape[0] // 32), shape[1], 32) and packed.is_contiguous()
    assert torch.equal(unpack(packed, shape[0]), weight)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_are_those_of_float32(name: str, tmp_path: Path) -> None:
    folder = folder_of(CONFIGS[name], tmp_path)
    found = logits(load_model(folder, SETTINGS))
    wide = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    expected = wide(torch.tensor([tiny.prompt(NUM_TOKENS)])).logits[0].detach()
    for way, rows in found.items():
        assert rows.dtype == torch.float32
        torch.testing.assert_close(rows, expected, rtol=1e-3, atol=1e-3, msg=lambda text: f"{way}: {text}")  # noqa: B023


@pytest.mark.parametrize("name", ["tied", "untied", "biased"])
def test_errors_are_those_of_the_weights_that_are_stood_for(name: str, tmp_path: Path) -> None:
    folder = folder_of(CONFIGS[name], tmp_path)
    wide = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).requires_grad_(False)
    packed = load_model(folder, SETTINGS).model
    errors = sketched_errors(sketch(wide), sketch(packed))
    own = {name for name, _ in wide.named_parameters(remove_duplicate=False)}
    assert len(errors) >= len(own) and {error.weight_error for error in errors} == {0.0}


@pytest.mark.parametrize("name", ["tied", "untied", "biased"])
def test_large_weights_stay_narrow_and_the_rest_is_float32(name: str, tmp_path: Path) -> None:
    model = load_model(folder_of(CONFIGS[name], tmp_path), SETTINGS).model
    assert CpuFusedModel(model).compiled is not None
    assert not [one for one in model.modules() if type(one) is nn.Linear]
    for owner in model.modules():
        is_packed = isinstance(owner, PackedLinear | Bf16Embedding)
        for parameter_name, parameter in owner.named_parameters(recurse=False):
            keeps_bf16 = is_packed and parameter_name == "weight"
            assert parameter.dtype == (torch.bfloat16 if keeps_bf16 else torch.float32), (
                owner,
                parameter_name,
            )
    embedding = model.model.embed_tokens
    assert (embedding.weight is model.lm_head.weight) == (name == "tied")


def test_joining_layers_of_the_same_input_copies_nothing(tmp_path: Path) -> None:
    model = load_model(folder_of(CONFIGS["untied"], tmp_path), SETTINGS).model
    before = {name: weight.data_ptr() for name, weight in model.named_parameters() if "_proj.weight" in name}
    CpuFusedModel(model)
    assert before == {name: weight.data_ptr() for name, weight in model.named_parameters() if name in before}
    assert len(before) == 7 * len(model.model.layers)


def test_weights_take_half(tmp_path: Path) -> None:
    config = LlamaConfig(**{**SHAPE, "vocab_size": 320}, intermediate_size=96)
    loaded = load_model(folder_of(config, tmp_path), SETTINGS)
    exact = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    wide = sum(parameter.numel() * 4 for parameter in exact.parameters())
    assert 0.5 <= loaded.weight_bytes / wide < 0.52  # norms stay wide


def test_layers_without_whole_blocks_become_float32(tmp_path: Path) -> None:
    model = load_model(folder_of(CONFIGS["no whole blocks"], tmp_path), SETTINGS).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert CpuFusedModel(model).compiled is None


def test_what_bfloat16_would_round_is_read_as_it_is(tmp_path: Path) -> None:
    model = load_model(folder_of(CONFIGS["tied"], tmp_path, torch.float32), SETTINGS).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("settings", [EngineConfig(device="cpu", dtype="float32", fused_layers=False)])
def test_the_reference_path_is_float32(settings: EngineConfig, tmp_path: Path) -> None:
    model = load_model(folder_of(CONFIGS["tied"], tmp_path), settings).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


def test_without_a_compiler_weights_are_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.cpu.compiler.works", lambda: False)
    model = load_model(folder_of(CONFIGS["tied"], tmp_path), SETTINGS).model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}


@pytest.mark.parametrize("quantize_head", [False, True])
def test_beside_int8_layers_the_rest_stays_narrow(tmp_path: Path, *, quantize_head: bool) -> None:
    folder = folder_of(CONFIGS["untied"], tmp_path)
    settings = EngineConfig(device="cpu", dtype="float32", quantization="int8", quantize_head=quantize_head)
    loaded = load_model(folder, settings)
    head = Int8Linear if quantize_head else PackedLinear
    assert type(loaded.model.lm_head) is head
    assert loaded.model.model.embed_tokens.weight.dtype == torch.bfloat16
    found = logits(loaded)
    torch.testing.assert_close(found["compiled"], found["transformers"], rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(found["compiled"], found["torch"], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("quantization", ["int8", "int4", "w8a8", "fp8"])
def test_every_quantization_is_what_it_is_beside_float32(quantization: Quantization, tmp_path: Path) -> None:
    config = LlamaConfig(**{**SHAPE, "hidden_size": 128}, intermediate_size=128, tie_word_embeddings=True)
    folder = folder_of(config, tmp_path)
    settings = replace(SETTINGS, quantization=quantization)
    found = logits(load_model(folder, settings))["compiled"]
    expected = logits(load_model(folder, replace(settings, fused_layers=False)))["transformers"]
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("is_new", "stage"), [(True, "compiling layers, once"), (False, "warming up")])
def test_progress_says_when_layers_are_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str, *, is_new: bool
) -> None:
    monkeypatch.setattr("inference.cpu.compiler.is_new_here", lambda: is_new)
    stages: list[str] = []
    settings = replace(SETTINGS, num_blocks=64, max_batch_tokens=32)
    folder = folder_of(CONFIGS["tied"], tmp_path)
    build_engine(RevisionSpec("r1", folder, settings), lambda progress: stages.append(progress.stage))
    assert {stage} == {"compiling layers, once", "warming up"} & set(stages)
