"""Tiny random models and sequences made by hand, for tests that need a model but no knowledge."""

from __future__ import annotations

from collections.abc import Sequence as Seq
from copy import deepcopy
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from inference.attention import base
from inference.models.loader import LoadedModel
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from inference.scheduling.sequence import Sequence
from inference.scheduling.step_input import SamplingInput
from inference.scheduling.step_plan import ScheduledChunk, StepPlan
from inference.text.vocabulary import TokenBytes, byte_level_alphabet
from tests.inference.tiny_configs import CONFIGS, LLAMA_LIKE, OTHERS, SHAPE, VOCAB_SIZE

__all__ = ["CONFIGS", "LLAMA_LIKE", "OTHERS", "SHAPE", "VOCAB_SIZE"]


def tiny_tokenizer() -> PreTrainedTokenizerBase:
    """Byte-level: ids 0..255 are the bytes, then begin, end, padding."""
    alphabet = byte_level_alphabet()
    backend = Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<begin>", eos_token="<end>", pad_token="<pad>"
    )


def tiny_model(name: str, *, seed: int = 0) -> Any:
    """A model of random weights in float32, large enough for its choices to be far apart."""
    torch.manual_seed(seed)
    config = deepcopy(CONFIGS[name])  # a model keeps its attention implementation there
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    for parameter_name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.3)
        elif name in OTHERS and parameter_name.endswith(("norm.weight", "sinks")):
            parameter.data.uniform_(1, 4)  # or embeddings would drown the layers, and sinks not be missed
    return model.eval()


def loaded(model: Any, *, attention: str = "cpu") -> LoadedModel:
    """`model` as the loader would return it, with our attention."""
    base.register()
    model.set_attn_implementation(base.NAME)
    tokenizer = tiny_tokenizer()
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        vocabulary=TokenBytes(tokenizer),
        config=model.config,
        device=torch.device("cpu"),
        dtype=torch.float32,
        attention=attention,
        batching=True,
        note="",
        max_model_len=model.config.get_text_config().max_position_embeddings,
    )


def generated(model: Any, prompt: Seq[int], num_tokens: int) -> list[int]:
    """What transformers' own greedy `generate` continues `prompt` with, never ending early."""
    model.set_attn_implementation("eager")  # which alone knows soft caps and sinks in all versions
    with torch.inference_mode():
        output = model.generate(
            torch.tensor([list(prompt)]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=num_tokens,
            min_new_tokens=num_tokens,
            do_sample=False,
            eos_token_id=None,
        )
    return [int(token_id) for token_id in output[0, len(prompt) :]]


def prompt(length: int, *, seed: int = 0) -> list[int]:
    """Random byte tokens."""
    generator = torch.Generator().manual_seed(1000 * seed + length)
    return [int(token_id) for token_id in torch.randint(0, 256, (length,), generator=generator)]


def sequence(
    token_ids: Seq[int] = (1,), output: Seq[int] = (), *, seed: int = 0, sampling: Sampling | None = None
) -> Sequence:
    """A sequence with `output` already generated."""
    request = GenerateRequest(
        request_id=f"r{len(token_ids)}",
        revision="tiny",
        token_ids=tuple(token_ids),
        owner=Owner(id="o", salt="s"),
        sampling=sampling or Sampling(temperature=0.0),
    )
    made = Sequence(request, arrived_at=0.0, max_tokens=1000, seed=seed)
    made.token_ids.extend(output)
    return made


def next_tokens(sequences: Seq[Sequence]) -> SamplingInput:
    """What choosing each sequence's next token takes."""
    chunks = [ScheduledChunk(one, len(one.token_ids) - 1, 1) for one in sequences]
    return StepPlan(tuple(chunks)).input.sampling
