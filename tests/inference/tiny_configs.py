"""A tiny config of each architecture that is batched, with what is special of it switched on."""

from __future__ import annotations

from typing import Any

from transformers import (
    Cohere2Config,
    Gemma2Config,
    Gemma3Config,
    Gemma3TextConfig,
    GptOssConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    Olmo2Config,
    Phi3Config,
    PretrainedConfig,
    Qwen2Config,
    Qwen3Config,
    Qwen3MoeConfig,
    SmolLM3Config,
)

VOCAB_SIZE = 300
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 48,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": 258,
}
SLIDING_WINDOW = 21  # smaller than the texts of the tests, and no multiple of a block
MIXED = ["sliding_attention", "full_attention", "sliding_attention"]
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 150000.0,
    "factor": 8.0,
    "beta_fast": 32.0,
    "beta_slow": 1.0,
    "truncate": False,
    "original_max_position_embeddings": 64,
}
GEMMA3_ROPE = {
    "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
    "full_attention": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 8.0},
}
MULTIPLIERS = {
    "embedding_multiplier": 3.0,
    "attention_multiplier": 0.2,
    "residual_multiplier": 0.5,
    "logits_scaling": 4.0,
}

# Llama and its near relations, whose layers are also known to fused/supported.py.
LLAMA_LIKE: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SHAPE, architectures=["LlamaForCausalLM"]),
    "llama3-rope": LlamaConfig(**SHAPE, architectures=["LlamaForCausalLM"], rope_parameters=LLAMA3_ROPE),
    "qwen2": Qwen2Config(**SHAPE, architectures=["Qwen2ForCausalLM"]),
    "qwen2-mixed": Qwen2Config(  # one layer sees all, the others a window
        **SHAPE,
        architectures=["Qwen2ForCausalLM"],
        use_sliding_window=True,
        sliding_window=SLIDING_WINDOW,
        max_window_layers=1,
    ),
    "qwen3": Qwen3Config(**SHAPE, head_dim=16, architectures=["Qwen3ForCausalLM"]),
    "mistral": MistralConfig(
        **SHAPE, head_dim=8, architectures=["MistralForCausalLM"], sliding_window=SLIDING_WINDOW
    ),
}

GEMMA3 = Gemma3TextConfig(  # a rotary embedding of each kind of layer
    **SHAPE,
    head_dim=16,
    architectures=["Gemma3ForCausalLM"],
    query_pre_attn_scalar=8,
    sliding_window=SLIDING_WINDOW,
    layer_types=MIXED,
    rope_parameters=GEMMA3_ROPE,
)
OTHERS: dict[str, PretrainedConfig] = {
    "cohere2": Cohere2Config(  # rotary embedding in windowed layers only, logits scaled
        **SHAPE, architectures=["Cohere2ForCausalLM"], sliding_window=SLIDING_WINDOW, layer_types=MIXED
    ),
    "gemma2": Gemma2Config(  # soft caps of scores and logits
        **SHAPE,
        head_dim=16,
        architectures=["Gemma2ForCausalLM"],
        query_pre_attn_scalar=8,
        attn_logit_softcapping=5.0,
        final_logit_softcapping=8.0,
        sliding_window=SLIDING_WINDOW,
        layer_types=MIXED,
    ),
    "gemma3": GEMMA3,
    "gemma3-images": Gemma3Config(  # which could see, but is asked about text alone
        text_config=GEMMA3.to_dict(),
        vision_config={
            "hidden_size": 32,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 28,
            "patch_size": 14,
        },
        mm_tokens_per_image=4,
        boi_token_index=297,
        eoi_token_index=298,
        image_token_index=299,
        architectures=["Gemma3ForConditionalGeneration"],
    ),
    "gpt-oss": GptOssConfig(  # sinks, windows, experts
        **SHAPE,
        head_dim=8,
        architectures=["GptOssForCausalLM"],
        num_local_experts=6,
        num_experts_per_tok=2,
        sliding_window=SLIDING_WINDOW,
        layer_types=MIXED,
        rope_parameters=YARN,
    ),
    "granite": GraniteConfig(**SHAPE, **MULTIPLIERS, architectures=["GraniteForCausalLM"]),
    "mixtral": MixtralConfig(
        **SHAPE,
        architectures=["MixtralForCausalLM"],
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=SLIDING_WINDOW,
    ),
    "olmo2": Olmo2Config(**SHAPE, architectures=["Olmo2ForCausalLM"]),
    "phi3": Phi3Config(
        **SHAPE,
        architectures=["Phi3ForCausalLM"],
        sliding_window=SLIDING_WINDOW,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.5},
    ),
    "qwen3-moe": Qwen3MoeConfig(  # experts everywhere but in the second layer
        **SHAPE,
        head_dim=16,
        architectures=["Qwen3MoeForCausalLM"],
        num_experts=6,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        norm_topk_prob=True,
        mlp_only_layers=[1],
    ),
    "smollm3": SmolLM3Config(  # the second layer has no rotary embedding, and the third a window besides
        **SHAPE,
        architectures=["SmolLM3ForCausalLM"],
        no_rope_layers=[1, 0, 1],
        use_sliding_window=True,
        sliding_window=SLIDING_WINDOW,
        layer_types=["full_attention", "full_attention", "sliding_attention"],
    ),
}

CONFIGS = LLAMA_LIKE | OTHERS
