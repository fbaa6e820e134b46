"""Whole engines over real folders, and what comes out of them: tokens with their log-probabilities."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, PretrainedConfig, Qwen2Config

from inference.config import EngineConfig, RevisionSpec
from inference.execution.build import assemble
from inference.models.loader import LoadedModel
from inference.protocol.events import Delta, Event, Finish
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from inference.scheduling.engine import Engine
from tests.inference import tiny

NUM_TOKENS = 12
GREEDY = Sampling(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=5)
DRAWN = replace(GREEDY, temperature=1.2, seed=11)
LENGTHS = (45, 131, 301)  # within a part of keys, a little more than one, more than two
Said = list[tuple[int, Any]]  # tokens, each with its log-probability and the best others

SHAPE = {
    "vocab_size": tiny.VOCAB_SIZE,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
    "eos_token_id": 257,
}
LLAMA = LlamaConfig(**SHAPE)
SLIDING = MistralConfig(**SHAPE, sliding_window=150)
BIASED = Qwen2Config(**SHAPE)


def folder_of(config: PretrainedConfig, folder: Path, *, loudness: float = 0.2) -> Path:
    """Random weights in a bfloat16 file; with louder ones tokens are further apart."""
    torch.manual_seed(1)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    for parameter in model.parameters():
        parameter.data.normal_(0, loudness) if parameter.dim() > 1 else parameter.data.uniform_(0.5, 1.5)
    model.save_pretrained(folder)
    tiny.tiny_tokenizer().save_pretrained(folder)
    return folder


def engine(loaded: LoadedModel, **settings: Any) -> Engine:
    options: dict[str, Any] = {"num_blocks": 400, "max_batch_tokens": 512, "max_num_seqs": 32}
    config = EngineConfig(**(options | settings))
    return assemble(loaded, RevisionSpec(revision="tiny", folder=Path("unused"), engine=config))


class Answer:
    """One request's events."""

    def __init__(
        self, engine: Engine, name: str, prompt: list[int], sampling: Sampling, priority: int
    ) -> None:
        self.events: list[Event] = []
        request = GenerateRequest(name, "tiny", tuple(prompt), Owner("o", "s"), sampling, priority=priority)
        engine.submit(request, self.events.append)

    @property
    def said(self) -> Said:
        return [
            said
            for delta in self.events
            if isinstance(delta, Delta)
            for said in zip(delta.token_ids, delta.logprobs, strict=True)
        ]

    @property
    def finish(self) -> Finish:
        assert isinstance(self.events[-1], Finish)
        return self.events[-1]


def ask(
    engine: Engine, prompt: list[int], sampling: Sampling, *, name: str = "own", priority: int = 0
) -> Answer:
    return Answer(engine, name, prompt, sampling, priority)


def answer(engine: Engine, prompt: list[int], sampling: Sampling = GREEDY) -> Said:
    """Of a request that nobody runs beside."""
    found = ask(engine, prompt, sampling)
    run(engine)
    assert len(found.said) == sampling.max_tokens
    return found.said


def run(engine: Engine) -> None:
    while engine.has_work:
        engine.step()
    engine.check_integrity()


def first_logprobs(said: Said) -> dict[int, float]:
    """Of the first token's likeliest."""
    return {one.token_id: one.logprob for one in said[0][1].top}
