"""What is batched is what golden tests cover; the rest is named with its reason."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import Gemma3TextConfig, LlamaConfig, Phi3Config

from inference.architectures import BATCHED
from inference.models.supported import why_not_batched, why_not_captured
from tests.inference import tiny

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
OTHER = {"rope_type": "proportional", "rope_theta": 10000.0}
LONG = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "short_factor": [1.0] * 4,
    "long_factor": [2.0] * 4,
}


def llama(rope: dict[str, Any]) -> LlamaConfig:
    return LlamaConfig(**tiny.SHAPE, architectures=["LlamaForCausalLM"], rope_parameters=rope)


def test_every_batched_architecture_has_a_golden_test() -> None:
    tested = {(config.architectures or [""])[0] for config in tiny.CONFIGS.values()}
    assert tested == BATCHED


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_the_golden_tests_configs_are_batched(name: str) -> None:
    assert why_not_batched(tiny.CONFIGS[name]) == ""


def test_rotary_embeddings_that_were_not_tried_are_not_batched() -> None:
    for tried in (YARN, DYNAMIC, LONG):
        assert why_not_batched(llama(tried)) == ""
    assert "'proportional' was not tried" in why_not_batched(llama(OTHER))


def test_a_config_without_architecture_is_not_batched() -> None:
    assert "names no architecture" in why_not_batched(LlamaConfig(**tiny.SHAPE))


def test_rotary_embeddings_of_each_kind_of_layer_are_looked_at() -> None:
    kinds = {"sliding_attention": {"rope_type": "default", "rope_theta": 1e4}, "full_attention": OTHER}
    config = Gemma3TextConfig(**tiny.SHAPE, architectures=["Gemma3ForCausalLM"], rope_parameters=kinds)
    assert "'proportional'" in why_not_batched(config)


def test_a_phi_of_long_context_is_batched() -> None:
    factors = {"short_factor": [1.0] * 4, "long_factor": [2.0] * 4}
    config = Phi3Config(
        **tiny.SHAPE, architectures=["Phi3ForCausalLM"], rope_scaling={"type": "longrope", **factors}
    )
    assert why_not_batched(config) == ""


def test_an_encoder_in_the_clothes_of_a_decoder_is_not_batched() -> None:
    config = Gemma3TextConfig(
        **tiny.SHAPE, architectures=["Gemma3ForCausalLM"], use_bidirectional_attention=True
    )
    assert "use_bidirectional_attention" in why_not_batched(config)


@pytest.mark.parametrize("name", ["gpt-oss", "mixtral", "qwen3-moe"])
def test_experts_are_captured_where_their_product_is_one_kernel(name: str) -> None:
    config, hopper, ampere = tiny.CONFIGS[name], (9, 0), (8, 0)
    assert why_not_captured(config, dtype=torch.bfloat16, compute_capability=hopper) == ""
    assert "experts" in why_not_captured(config, dtype=torch.bfloat16, compute_capability=ampere)
    assert "experts" in why_not_captured(config, dtype=torch.float32, compute_capability=hopper)


def test_models_without_experts_are_always_captured() -> None:
    config = tiny.CONFIGS["gemma3"]
    assert why_not_captured(config, dtype=torch.float32, compute_capability=(8, 6)) == ""
