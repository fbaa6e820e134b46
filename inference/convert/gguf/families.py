"""Architectures of GGUF files: which config of transformers each becomes, and from which keys."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from inference.convert.gguf.header import GgufHeader

Adjust = Callable[[GgufHeader, dict[str, Any]], None]

DECODER = {
    "context_length": "max_position_embeddings",
    "block_count": "num_hidden_layers",
    "feed_forward_length": "intermediate_size",
    "embedding_length": "hidden_size",
    "rope.freq_base": "rope_theta",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.layer_norm_rms_epsilon": "rms_norm_eps",
}
NORMED = {**DECODER, "attention.layer_norm_epsilon": "layer_norm_eps"}
WINDOWED = {**DECODER, "attention.sliding_window": "sliding_window"}
NEEDED = ("block_count", "embedding_length", "attention.head_count")


@dataclass(frozen=True, slots=True)
class Family:
    """The conversion of one architecture."""

    model_type: str
    keys: Mapping[str, str | None] | None = None  # of the header -> of the config; None: transformers' table
    known_as: str = ""  # in that table
    layout: str = ""  # whose changes of tensors are undone; "": those of the architecture's own name
    defaults: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    needed: tuple[str, ...] = NEEDED
    has_head_dim: bool = True
    is_always_tied: bool = False
    adjust: Adjust | None = None
    as_a_whole: bool = False  # transformers reads the file itself, all of it at once


def _llama(header: GgufHeader, values: dict[str, Any]) -> None:
    if width := header.of_model("rope.dimension_count"):  # all of a head is turned
        values.setdefault("head_dim", width)
    if "blk.0.attn_q.bias" in header.tensors:
        values["attention_bias"] = True
    if "blk.0.ffn_up.bias" in header.tensors:
        values["mlp_bias"] = True


def _partial_rotary(header: GgufHeader, values: dict[str, Any]) -> None:
    width, head_dim = header.of_model("rope.dimension_count"), values.get("head_dim")
    if width and head_dim:
        values["partial_rotary_factor"] = width / head_dim


def _phi3(header: GgufHeader, values: dict[str, Any]) -> None:
    values["sliding_window"] = values.get("sliding_window") or None
    values.setdefault("head_dim", values["hidden_size"] // values["num_attention_heads"])
    _partial_rotary(header, values)


def _stablelm(header: GgufHeader, values: dict[str, Any]) -> None:
    values["use_qkv_bias"] = "blk.0.attn_q.bias" in header.tensors
    values["use_parallel_residual"] = "blk.0.ffn_norm.weight" not in header.tensors
    width = header.of_model("rope.dimension_count")
    if width and values.get("num_attention_heads"):
        values["partial_rotary_factor"] = width * values["num_attention_heads"] / values["hidden_size"]


def _minimax_m2(header: GgufHeader, values: dict[str, Any]) -> None:
    functions = {0: "none", 1: "softmax", 2: "sigmoid"}
    values["scoring_func"] = functions.get(values.get("scoring_func", 1), "softmax")


def _known(model_type: str, **how: Any) -> Family:
    """A family whose keys are in transformers' own table, under the config's name."""
    return Family(model_type, **{"known_as": model_type, **how})


EXPERTS = {
    **DECODER,
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
}
GPT2 = {
    "context_length": "n_positions",
    "block_count": "n_layer",
    "feed_forward_length": "n_inner",
    "embedding_length": "n_embd",
    "attention.head_count": "n_head",
    "attention.layer_norm_epsilon": "layer_norm_epsilon",
}
GRANITE = {
    **DECODER,
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "residual_scale": "residual_multiplier",
    "logit_scale": "logits_scaling",
}
COHERE = {**NORMED, "logit_scale": "logit_scale"}
GEMMA2 = {
    **WINDOWED,
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}
FAMILIES: dict[str, Family] = {
    "llama": Family("llama", DECODER, adjust=_llama),
    "qwen2": Family("qwen2", DECODER),
    "qwen3": Family("qwen3", DECODER),
    "phi3": Family("phi3", WINDOWED, adjust=_phi3),
    "gemma": Family("gemma", DECODER, layout="gemma2"),
    "gemma2": Family(
        "gemma2", GEMMA2, defaults={"attn_logit_softcapping": None, "final_logit_softcapping": None}
    ),
    "gemma3": Family("gemma3_text", WINDOWED),
    "granite": Family("granite", GRANITE, layout="llama"),
    "smollm3": Family("smollm3", DECODER, layout="llama"),
    "olmo2": Family("olmo2", DECODER, has_head_dim=False),
    "glm4": Family("glm4", DECODER, adjust=_partial_rotary),
    "command-r": Family("cohere", COHERE, has_head_dim=False),
    "cohere2": Family("cohere2", {**COHERE, "attention.sliding_window": "sliding_window"}),
    "qwen2moe": Family("qwen2_moe", EXPERTS),
    "qwen3moe": Family("qwen3_moe", EXPERTS, defaults={"norm_topk_prob": True}),
    "falcon": _known("falcon", has_head_dim=False, is_always_tied=True),
    "bloom": _known("bloom", has_head_dim=False, is_always_tied=True),
    "gpt2": Family("gpt2", GPT2, has_head_dim=False),
    "stablelm": Family("stablelm", NORMED, has_head_dim=False, adjust=_stablelm),
    "starcoder2": Family(
        "starcoder2", {**DECODER, "attention.layer_norm_epsilon": "norm_epsilon"}, has_head_dim=False
    ),
    "mamba": _known("mamba", has_head_dim=False, needed=("block_count", "embedding_length")),
    "nemotron": Family(
        "nemotron", {**DECODER, "attention.layer_norm_epsilon": "norm_eps"}, adjust=_partial_rotary
    ),
    "minimax-m2": _known("minimax_m2", defaults={"use_routing_bias": True}, adjust=_minimax_m2),
    "lfm2": _known("lfm2", as_a_whole=True),
    "qwen35": Family("qwen3_5_text", as_a_whole=True),
    "qwen35moe": Family("qwen3_5_moe_text", as_a_whole=True),
    "gemma4": _known("gemma4", as_a_whole=True),
    "gpt-oss": _known("gpt_oss", as_a_whole=True),
}
