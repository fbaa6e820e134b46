"""What is batched is what golden tests cover; the rest is named with its reason."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import LlamaConfig

from inference.models.supported import SUPPORTED, why_not_batched
from tests.inference import tiny

YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
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
    assert tested == SUPPORTED


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_the_golden_tests_configs_are_batched(name: str) -> None:
    assert why_not_batched(tiny.CONFIGS[name]) == ""


def test_frequencies_that_depend_on_the_batch_are_not_batched() -> None:
    assert why_not_batched(llama(YARN)) == ""
    assert "'dynamic' depends on the other sequences" in why_not_batched(llama(DYNAMIC))
    assert "'longrope'" in why_not_batched(llama(LONG))


def test_a_config_without_architecture_is_not_batched() -> None:
    assert "names no architecture" in why_not_batched(LlamaConfig(**tiny.SHAPE))
