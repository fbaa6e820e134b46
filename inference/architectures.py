"""Names of the architectures that run in batches, as config.json has them: those with a golden test."""

from __future__ import annotations

# A token is sent to a few of many feed-forward networks, whose weights lie in one tensor.
WITH_EXPERTS = frozenset({"GptOssForCausalLM", "MixtralForCausalLM", "Qwen3MoeForCausalLM"})
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
