"""Rotary embeddings that turn by the length: one request's length is no matter of another's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, Phi3Config

from inference.config import EngineConfig, RevisionSpec
from inference.execution.build import build_engine
from inference.models.rotary_length import fix_rope_frequencies
from inference.protocol.events import Delta, Event
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from tests.inference import tiny

ORIGINAL, CONTEXT = 32, 256  # tokens that the short factors were made for, and that the long ones were
HEAD_DIM = tiny.SHAPE["hidden_size"] // tiny.SHAPE["num_attention_heads"]
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "original_max_position_embeddings": ORIGINAL,
    "short_factor": [1.0] * (HEAD_DIM // 2),
    "long_factor": [1.0 + 2.0 * index for index in range(HEAD_DIM // 2)],
}
SHORT, LONG, NUM_TOKENS = tiny.prompt(8), tiny.prompt(2 * ORIGINAL), 12


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("longrope")
    longrope_model().save_pretrained(folder)
    tiny.tiny_tokenizer().save_pretrained(folder)
    return folder


def longrope_model() -> Any:
    torch.manual_seed(0)
    config = Phi3Config(
        **tiny.SHAPE | {"max_position_embeddings": CONTEXT},
        architectures=["Phi3ForCausalLM"],
        original_max_position_embeddings=ORIGINAL,
        rope_parameters=dict(LONGROPE),
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.3)
    return model.eval()


def continued(
    folder: Path, prompts: Sequence[Sequence[int]], max_model_len: int | None = None
) -> list[list[int]]:
    """What the engine makes of prompts that it computes together."""
    config = EngineConfig(device="cpu", dtype="float32", prefix_caching=False, max_model_len=max_model_len)
    engine = build_engine(RevisionSpec("tiny", folder, config))
    sampling = Sampling(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
    events: list[list[Event]] = [[] for _ in prompts]
    for index, (prompt, own) in enumerate(zip(prompts, events, strict=True)):
        owner = Owner(id="o", salt="s")
        engine.submit(GenerateRequest(str(index), "tiny", tuple(prompt), owner, sampling), own.append)
    while engine.has_work:
        engine.step()
    return [
        [token_id for event in own if isinstance(event, Delta) for token_id in event.token_ids]
        for own in events
    ]


def test_a_long_neighbour_changes_nothing(folder: Path) -> None:
    assert continued(folder, [SHORT, LONG])[0] == continued(folder, [SHORT])[0]


def test_a_long_prompt_is_continued_as_generate_does(folder: Path) -> None:
    assert continued(folder, [SHORT, LONG])[1] == tiny.generated(longrope_model(), LONG, NUM_TOKENS)


def test_a_context_that_the_short_factors_hold_is_computed_with_them(folder: Path) -> None:
    expected = tiny.generated(longrope_model(), SHORT, NUM_TOKENS)
    assert continued(folder, [SHORT], max_model_len=ORIGINAL)[0] == expected
    assert continued(folder, [SHORT])[0] != expected


def test_frequencies_stay_whatever_is_computed() -> None:
    dynamic = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0}
    config = LlamaConfig(**tiny.SHAPE | {"max_position_embeddings": ORIGINAL}, rope_parameters=dynamic)
    rotary = AutoModelForCausalLM.from_config(config).model.rotary_emb
    fix_rope_frequencies(rotary, CONTEXT)
    settled = rotary.inv_freq.clone()
    for longest in (CONTEXT, 8 * CONTEXT, 4):
        rotary(torch.zeros(1), torch.arange(longest)[None])
        assert torch.equal(rotary.inv_freq, settled)


def test_each_type_of_layer_keeps_its_own() -> None:
    config = Gemma3TextConfig(
        **tiny.SHAPE,
        head_dim=HEAD_DIM,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "sliding_attention": {"rope_type": "default", "rope_theta": 100.0},
            "full_attention": LONGROPE,
        },
    )
    rotary = AutoModelForCausalLM.from_config(config).model.rotary_emb
    sliding, short = rotary.sliding_attention_inv_freq.clone(), rotary.full_attention_inv_freq.clone()
    fix_rope_frequencies(rotary, CONTEXT)
    long = rotary.full_attention_inv_freq.clone()
    assert torch.equal(rotary.sliding_attention_inv_freq, sliding) and not torch.equal(long, short)
    rotary(torch.zeros(1), torch.arange(4)[None], "full_attention")
    assert torch.equal(rotary.full_attention_inv_freq, long)
