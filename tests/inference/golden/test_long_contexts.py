"""A context of 20,000 tokens: the tokens of `generate`, and memory that does not grow with its square."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, LlamaConfig

from inference.attention import base
from inference.attention.base import Layout, Step, Stretch
from inference.attention.cpu import CpuStep
from inference.attention.reference import ReferenceStep
from inference.config import EngineConfig, RevisionSpec
from inference.execution.build import assemble
from inference.execution.kv_cache import KVCache
from inference.protocol.events import Delta, Event, Finish
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from inference.scheduling.engine import Engine
from tests.inference import tiny

CONTEXT, CHUNK, BLOCK_SIZE, NUM_TOKENS = 20_000, 512, 16, 8
CONFIG = LlamaConfig(
    **tiny.SHAPE
    | {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "max_position_embeddings": 32_768,
    }
)


def long_model() -> Any:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIG, dtype=torch.float32).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.3)
    return model


def run(engine: Engine, prompt: list[int]) -> tuple[list[int], Finish]:
    events: list[Event] = []
    sampling = Sampling(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
    engine.submit(
        GenerateRequest("r", "tiny", tuple(prompt), Owner(id="o", salt="s"), sampling), events.append
    )
    while engine.has_work:
        engine.step()
    end = events[-1]
    assert isinstance(end, Finish)
    return [t for event in events if isinstance(event, Delta) for t in event.token_ids], end


def test_twenty_thousand_tokens_are_continued_as_generate_does_and_found_again() -> None:
    model, prompt = long_model(), tiny.prompt(CONTEXT)
    with torch.inference_mode():
        ids = model.generate(
            torch.tensor([prompt]), max_new_tokens=NUM_TOKENS, do_sample=False, eos_token_id=None
        )
    expected = ids[0, CONTEXT:].tolist()
    loaded = tiny.loaded(model)
    config = EngineConfig(block_size=BLOCK_SIZE, num_blocks=1400, max_batch_tokens=CHUNK, max_num_seqs=2)
    engine = assemble(loaded, RevisionSpec("tiny", Path("unused"), config))
    assert run(engine, prompt)[0] == expected
    again, end = run(engine, prompt)
    assert again == expected
    assert end.usage.cached_tokens == (CONTEXT - 1) // BLOCK_SIZE * BLOCK_SIZE


class LargestTensor(TorchDispatchMode):
    """Remembers how many elements the largest tensor has that any operation makes; views count little."""

    def __init__(self) -> None:
        super().__init__()
        self.num_elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, torch.Tensor):
            self.num_elements = max(self.num_elements, made.untyped_storage().nbytes() // made.itemsize)
        return made


@pytest.mark.parametrize(
    "options",
    [
        {"window": None, "softcap": None},
        {"window": 1000, "softcap": None},
        {"window": None, "softcap": 5.0},
        {"window": 1000, "softcap": None, "sinks": torch.zeros(2)},
    ],
    ids=["plain", "window", "softcap", "sinks"],
)
@pytest.mark.parametrize("step_class", [ReferenceStep, CpuStep])
def test_a_chunk_at_the_end_of_a_long_text_takes_no_square_of_it(
    step_class: type[Step], options: dict[str, Any]
) -> None:
    num_blocks = CONTEXT // BLOCK_SIZE
    cache = KVCache(
        CONFIG,
        num_blocks=num_blocks,
        block_size=BLOCK_SIZE,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    layout = Layout(
        [Stretch(0, CHUNK, CONTEXT, list(range(num_blocks)))], torch.arange(CONTEXT - CHUNK, CONTEXT)
    )
    query, key = torch.randn(CHUNK, 2, 8), torch.randn(CHUNK, 1, 8)
    with torch.inference_mode(), LargestTensor() as largest:
        step_class(cache, layout).attend(0, query, key, key, scaling=0.3, **options)
    mask = CHUNK * CONTEXT
    assert 0 < largest.num_elements <= max(mask, base.LARGEST_SCORES) * 1.01
