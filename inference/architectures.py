"""What is known of architectures by their names in config.json, without loading anything."""

from __future__ import annotations

from collections.abc import Iterable

# A token is sent to a few of many feed-forward networks, whose weights lie in one tensor.
WITH_EXPERTS = frozenset({"GptOssForCausalLM", "MixtralForCausalLM", "Qwen3MoeForCausalLM"})
# Those that run in batches: each has a golden test.
BATCHED = WITH_EXPERTS | {
    "Cohere2ForCausalLM",
    "Gemma2ForCausalLM",
    "Gemma3ForCausalLM",
    "Gemma3ForConditionalGeneration",  # its text; no door of ours takes images
    "GraniteForCausalLM",
    "LlamaForCausalLM",
    "MistralForCausalLM",
    "Olmo2ForCausalLM",
    "Phi3ForCausalLM",
    "Qwen2ForCausalLM",
    "Qwen3ForCausalLM",
    "SmolLM3ForCausalLM",
}
# Their layers run with joined products and fewer operations.
FUSED = frozenset({"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})

WIDER = frozenset({"F64", "F32", "F16"})  # what bfloat16 would round


def can_keep_bf16(architecture: str, tensors: Iterable[tuple[str, str]]) -> bool:
    """True if a folder's matrices may stay bfloat16 beside float32 activations on CPUs.

    Its layers must be known, and nothing in it wider. `tensors`: names, and dtypes as safetensors has them.
    """
    return architecture in FUSED and all(
        dtype not in WIDER or name.endswith("_scale") for name, dtype in tensors
    )
