"""GGUF files whose tensors lie otherwise than the model's: transposed, taken apart, or as logarithms."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    FalconConfig,
    GPT2Config,
    MambaConfig,
    PretrainedConfig,
)

from inference.convert.gguf.folder import convert_gguf
from inference.convert.gguf.parts import check_gguf
from tests.inference.convert.gguf.test_families import write_tokenizer

WIDTH, HEADS, LAYERS, CONTEXT = 64, 4, 3, 128
TOKENS: dict[str, Any] = {"vocab_size": 262, "bos_token_id": 1, "eos_token_id": 2}
CONFIGS: dict[str, PretrainedConfig] = {
    "gpt2": GPT2Config(**TOKENS, n_positions=CONTEXT, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS),
    "falcon": FalconConfig(
        **TOKENS,
        hidden_size=WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        max_position_embeddings=CONTEXT,
    ),
    "bloom": BloomConfig(**TOKENS, hidden_size=WIDTH, n_layer=LAYERS, n_head=HEADS),
    "mamba": MambaConfig(**TOKENS, hidden_size=WIDTH, num_hidden_layers=LAYERS, state_size=8),
}


def tiny_model(family: str) -> Any:
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(CONFIGS[family], dtype=torch.float32)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            parameter.data.add_(torch.rand_like(parameter) * 0.3)
        elif "A_log" not in name:
            parameter.data.normal_(0, 0.15)
    return model.eval()


def laid_out(family: str, name: str, weight: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """As llama.cpp's converter lays it out."""
    if family == "gpt2" and name.endswith(("c_attn.weight", "c_proj.weight", "c_fc.weight")):
        return weight.T
    if family == "bloom" and "query_key_value" in name:
        heads = weight.reshape(HEADS, 3, WIDTH // HEADS, *weight.shape[1:])
        return np.concatenate([heads[:, part].reshape(WIDTH, *weight.shape[1:]) for part in range(3)])
    if name.endswith("A_log"):
        return np.asarray(-np.exp(weight))
    return weight.squeeze(1) if name.endswith("conv1d.weight") else weight


def write_gguf(path: Path, family: str) -> Any:
    config, model = CONFIGS[family], tiny_model(family)
    writer = gguf.GGUFWriter(path, family)
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(4 * WIDTH)
    if family == "mamba":
        writer.add_layer_norm_rms_eps(config.layer_norm_epsilon)
        writer.add_ssm_conv_kernel(config.conv_kernel)
        writer.add_ssm_inner_size(config.intermediate_size)
        writer.add_ssm_state_size(config.state_size)
        writer.add_ssm_time_step_rank(config.time_step_rank)
    else:
        writer.add_head_count(HEADS)
        writer.add_head_count_kv(1 if family == "falcon" else HEADS)
        writer.add_layer_norm_eps(config.layer_norm_epsilon)
    write_tokenizer(writer, is_byte_level=True)
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    names = gguf.get_tensor_name_map(kind, LAYERS)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        known = (name, name.removeprefix("transformer."))
        theirs = next(found for one in known if (found := names.get_name(one, (".weight", ".bias"))))
        weight = laid_out(family, name, tensor.float().numpy())
        writer.add_tensor(theirs, np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.mark.parametrize("family", CONFIGS)
def test_a_gguf_file_becomes_the_model_that_it_was_made_of(family: str, tmp_path: Path) -> None:
    exact = write_gguf(tmp_path / "tiny.gguf", family)
    convert_gguf(check_gguf(tmp_path / "tiny.gguf"), tmp_path / "made", dtype=torch.float32)
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "made")
    token_ids = torch.randint(3, 262, (1, 50), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(made(token_ids).logits, exact(token_ids).logits, atol=1e-4, rtol=1e-4)
