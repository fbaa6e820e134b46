"""GGUF files of several families become the models that they were made of: windows, caps, frequencies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    Phi3Config,
    PretrainedConfig,
    Qwen3Config,
)

from inference.config import EngineConfig
from inference.convert.gguf.folder import convert_gguf
from inference.convert.gguf.header import CannotConvert
from inference.convert.gguf.parts import check_gguf
from inference.models.loader import load_model
from inference.protocol.requests import ChatMessage
from inference.text.chat_template import render_chat
from inference.text.vocabulary import byte_level_alphabet
from tests.inference.convert.hostile import interleaved

ALPHABET = sorted(byte_level_alphabet(), key=byte_level_alphabet().__getitem__)
SENTENCEPIECE = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b"]
BYTE_LEVEL = ["<unk>", "<s>", "</s>", *ALPHABET, "ab", "cd", "ef"]
TEMPLATE = "{% for message in messages %}a{{ message['content'] }}a{% endfor %}"
SHAPE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "vocab_size": len(SENTENCEPIECE),
}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
GEMMA3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 1_000_000.0, "factor": 8.0},
}
FAMILIES: dict[str, tuple[gguf.MODEL_ARCH, PretrainedConfig]] = {
    "phi3": (gguf.MODEL_ARCH.PHI3, Phi3Config(**SHAPE, num_hidden_layers=2, sliding_window=9)),
    "gemma2": (
        gguf.MODEL_ARCH.GEMMA2,
        Gemma2Config(
            **SHAPE, num_hidden_layers=3, head_dim=8, sliding_window=9, query_pre_attn_scalar=8,
            attn_logit_softcapping=7.0, final_logit_softcapping=5.0,
        ),
    ),
    "gemma3": (
        gguf.MODEL_ARCH.GEMMA3,
        Gemma3TextConfig(
            **SHAPE, num_hidden_layers=7, head_dim=8, sliding_window=9, query_pre_attn_scalar=8,
            rope_parameters=GEMMA3_ROPE,
        ),
    ),
    "llama": (
        gguf.MODEL_ARCH.LLAMA,
        LlamaConfig(**SHAPE, num_hidden_layers=2, rope_parameters=LLAMA3, rms_norm_eps=1e-6),
    ),
    "qwen3": (gguf.MODEL_ARCH.QWEN3, Qwen3Config(**SHAPE, num_hidden_layers=2, head_dim=8)),
}  # fmt: skip


def tiny_model(family: str) -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        FAMILIES[family][1], attn_implementation="eager", dtype=torch.float32
    )
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.3)
        else:
            parameter.data.add_(torch.rand_like(parameter))
    return model.eval()


def write_gguf(path: Path, family: str, **more: Any) -> Any:
    """As llama.cpp's converter lays the family out; returns the model. `more`: keys of the header."""
    arch, config = FAMILIES[family]
    model = tiny_model(family)
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    parameters = config.rope_parameters
    rope = parameters.get("full_attention", parameters)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
        writer.add_value_length(config.head_dim)
    if getattr(config, "sliding_window", None):
        writer.add_sliding_window(config.sliding_window)
    if family == "gemma2":
        writer.add_attn_logit_softcapping(config.attn_logit_softcapping)
        writer.add_final_logit_softcapping(config.final_logit_softcapping)
    for key, value in more.items():
        writer.add_string(key.replace("__", "."), value)
    write_tokenizer(writer, is_byte_level=family == "qwen3")
    write_tensors(writer, model, arch)
    return model


def write_tokenizer(writer: gguf.GGUFWriter, *, is_byte_level: bool) -> None:
    if is_byte_level:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_list(BYTE_LEVEL)
        writer.add_token_types([1, 3, 3] + [1] * 259)
        writer.add_token_merges(["a b", "c d", "e f"])
    else:
        writer.add_tokenizer_model("llama")
        writer.add_token_list(SENTENCEPIECE)
        writer.add_token_scores([0.0] * len(SENTENCEPIECE))
        writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * 3)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.add_pad_token_id(0)
    writer.add_chat_template(TEMPLATE)


def write_tensors(writer: gguf.GGUFWriter, model: Any, arch: gguf.MODEL_ARCH) -> None:
    config = model.config
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    is_gemma = config.model_type.startswith("gemma")
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        weight = tensor.float().numpy()
        if is_gemma and name.endswith("norm.weight"):
            weight = weight + 1
        if config.model_type == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = interleaved(weight, num_heads=4 if "q_proj" in name else 2)
        writer.add_tensor(names.get_name(name, (".weight",)), np.ascontiguousarray(weight))
    if config.rope_parameters.get("rope_type") == "llama3":
        rotary = model.model.rotary_emb
        plain = 1 / (LLAMA3["rope_theta"] ** (torch.arange(0, 8, 2) / 8))
        writer.add_tensor("rope_freqs.weight", (plain / rotary.inv_freq).float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_gguf_file_becomes_the_model_that_it_was_made_of(family: str, tmp_path: Path) -> None:
    exact = write_gguf(tmp_path / "tiny.gguf", family)
    convert_gguf(check_gguf(tmp_path / "tiny.gguf"), tmp_path / "made", dtype=torch.float32)
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "made", attn_implementation="eager")
    token_ids = torch.randint(3, len(SENTENCEPIECE), (1, 50), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(made(token_ids).logits, exact(token_ids).logits, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_was_converted_is_batched_and_chats(family: str, tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", family)
    convert_gguf(check_gguf(tmp_path / "tiny.gguf"), tmp_path / "made", dtype=torch.float32)
    loaded = load_model(tmp_path / "made", EngineConfig(device="cpu", dtype="float32"))
    assert loaded.batching and loaded.eos_token_ids == (2,)
    token_ids = render_chat(loaded.tokenizer, [ChatMessage(role="user", content="bb")])
    assert "abba" in loaded.tokenizer.decode(token_ids)


def test_a_rotary_embedding_that_would_get_lost_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", "qwen3", qwen3__rope__scaling__type="yarn")
    with pytest.raises(CannotConvert, match="is yarn, which is not converted"):
        convert_gguf(check_gguf(tmp_path / "tiny.gguf"), tmp_path / "made", dtype=torch.float32)
