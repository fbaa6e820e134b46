"""GGUF files of families beside the common ones. Written as llama.cpp lays them out: what its library said
of such files was compared with the models that they were made of, and was equal up to its rounding.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Cohere2Config,
    CohereConfig,
    GemmaConfig,
    Glm4Config,
    GraniteConfig,
    NemotronConfig,
    Olmo2Config,
    PretrainedConfig,
    Qwen2MoeConfig,
    Qwen3MoeConfig,
    SmolLM3Config,
    StableLmConfig,
    Starcoder2Config,
)

from inference.convert.gguf.folder import convert_gguf
from inference.convert.gguf.parts import check_gguf
from tests.inference.convert.gguf.test_families import write_tokenizer
from tests.inference.convert.hostile import interleaved

SHAPE: dict[str, Any] = {
    "vocab_size": 262,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def half_turned(theta: float) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": theta, "partial_rotary_factor": 0.5}


PLAIN = {"rope_type": "default", "rope_theta": 4000.0}
MULTIPLIERS = {
    "attention_multiplier": 0.2,
    "embedding_multiplier": 3.0,
    "residual_multiplier": 0.5,
    "logits_scaling": 4.0,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "granite": GraniteConfig(**SHAPE, **MULTIPLIERS, rope_parameters=PLAIN),
    "smollm3": SmolLM3Config(**SHAPE, rope_parameters=PLAIN),
    "olmo2": Olmo2Config(**SHAPE, rope_parameters=PLAIN),
    "glm4": Glm4Config(**SHAPE, head_dim=16, rope_parameters=half_turned(4000.0)),
    "command-r": CohereConfig(**SHAPE, logit_scale=0.5, rope_parameters=PLAIN),
    "cohere2": Cohere2Config(**SHAPE, head_dim=16, sliding_window=8, logit_scale=0.5),
    "gemma": GemmaConfig(**SHAPE, head_dim=16, rope_parameters=PLAIN),
    "qwen3moe": Qwen3MoeConfig(**SHAPE, **EXPERTS, head_dim=16, norm_topk_prob=True),
    "qwen2moe": Qwen2MoeConfig(**SHAPE, **EXPERTS, shared_expert_intermediate_size=48),
    "stablelm": StableLmConfig(**SHAPE, rope_parameters=half_turned(4000.0)),
    "nemotron": NemotronConfig(**SHAPE, head_dim=16, rope_parameters=half_turned(4000.0)),
    "starcoder2": Starcoder2Config(**SHAPE, rope_parameters=PLAIN),
}
EPSILONS = ("rms_norm_eps", "layer_norm_eps", "norm_eps", "norm_epsilon")
OF_GRANITE = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}
OF_EXPERTS = {
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}


def tiny_model(family: str) -> Any:
    torch.manual_seed(1)
    config = CONFIGS[family]
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.15)
        else:
            parameter.data.add_(torch.rand_like(parameter) * 0.5)
    return model.eval()


def write_gguf(path: Path, family: str) -> Any:
    config, model = CONFIGS[family], tiny_model(family)
    writer = gguf.GGUFWriter(path, family)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    epsilon = next(name for name in EPSILONS if hasattr(config, name))
    (writer.add_layer_norm_rms_eps if epsilon == "rms_norm_eps" else writer.add_layer_norm_eps)(
        getattr(config, epsilon)
    )
    rope, head_dim = config.rope_parameters, getattr(config, "head_dim", None) or 16
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    writer.add_rope_dimension_count(int(head_dim * (rope.get("partial_rotary_factor") or 1)))
    writer.add_key_length(head_dim)
    if family == "granite":
        for key, name in OF_GRANITE.items():
            writer.add_float32(f"granite.{key}", getattr(config, name))
    if hasattr(config, "logit_scale"):
        writer.add_logit_scale(config.logit_scale)
    if family == "cohere2":
        writer.add_sliding_window(config.sliding_window)
    if hasattr(config, "num_experts"):
        writer.add_expert_count(config.num_experts)
        writer.add_expert_used_count(config.num_experts_per_tok)
        for key, name in OF_EXPERTS.items():
            if hasattr(config, name):
                writer.add_uint32(f"{family}.{key}", getattr(config, name))
    write_tokenizer(writer, is_byte_level=True)
    _write_tensors(writer, family, model)
    return model


def _write_tensors(writer: gguf.GGUFWriter, family: str, model: Any) -> None:
    kind = next(kind for kind, name in gguf.MODEL_ARCH_NAMES.items() if name == family)
    names = gguf.get_tensor_name_map(kind, model.config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        weight, layer = tensor.float().numpy(), name.partition("layers.")[2].partition(".")[0]
        if family in ("gemma", "nemotron") and name.endswith("norm.weight"):
            weight = weight + 1
        if family in ("granite", "smollm3") and name.endswith(("q_proj.weight", "k_proj.weight")):
            weight = interleaved(weight, num_heads=4 if "q_proj" in name else 2)
        if name.endswith("experts.gate_up_proj"):
            gate, up = np.split(weight, 2, axis=1)
            writer.add_tensor(f"blk.{layer}.ffn_gate_exps.weight", np.ascontiguousarray(gate))
            writer.add_tensor(f"blk.{layer}.ffn_up_exps.weight", np.ascontiguousarray(up))
        elif name.endswith("experts.down_proj"):
            writer.add_tensor(f"blk.{layer}.ffn_down_exps.weight", weight)
        else:
            weight = weight.reshape(-1) if name.endswith("shared_expert_gate.weight") else weight
            theirs = names.get_name(name, (".weight", ".bias"))
            assert theirs is not None, name
            writer.add_tensor(theirs, np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.mark.parametrize("family", CONFIGS)
def test_a_gguf_file_becomes_the_model_that_it_was_made_of(family: str, tmp_path: Path) -> None:
    exact = write_gguf(tmp_path / "tiny.gguf", family)
    convert_gguf(check_gguf(tmp_path / "tiny.gguf"), tmp_path / "made", dtype=torch.float32)
    made = AutoModelForCausalLM.from_pretrained(tmp_path / "made", attn_implementation="eager")
    token_ids = torch.randint(3, 262, (1, 50), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        torch.testing.assert_close(made(token_ids).logits, exact(token_ids).logits, atol=1e-4, rtol=1e-4)
