"""Batch-invariant mode on an NVIDIA GPU, in bfloat16 with CUDA graphs: every bit the same in any batch."""

from __future__ import annotations

import random
import secrets
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen3Config

from inference.checkpoints.model_folder import CannotLoad
from inference.config import EngineConfig, RevisionSpec
from inference.execution.build import build_engine
from inference.protocol.events import Delta, Event, Finish
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from inference.sampling.randomness import uniform
from inference.sampling.sampler import draw
from inference.scheduling.engine import Engine
from tests.gpu.device import DEVICE, needs_gpu, sized
from tests.inference import tiny

pytestmark = pytest.mark.gpu

SHAPE: dict[str, Any] = {
    "vocab_size": 2000,
    "hidden_size": sized(512, dry=128),
    "intermediate_size": sized(1408, dry=256),
    "num_hidden_layers": sized(4, dry=2),
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 4096,
    "bos_token_id": 1990,
    "eos_token_id": 1991,
    "pad_token_id": 1992,
}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE),
    "mistral": MistralConfig(**SHAPE, sliding_window=sized(700, dry=80)),
}
NUM_TOKENS = sized(24, dry=8)
NUM_OTHERS = sized((1, 6, 31), dry=(3,))
PROMPT = tiny.prompt(sized(1501, dry=201))  # keys of several parts, and an end inside a tile
SHORT = tiny.prompt(33)  # its last chunk is one token
GREEDY = Sampling(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=5)
DRAWN = Sampling(temperature=1.0, top_p=0.9, seed=5, max_tokens=NUM_TOKENS, ignore_eos=True, logprobs=5)
Said = list[tuple[int, Any]]


@pytest.fixture(scope="module", params=sized(list(CONFIGS), dry=["llama", "mistral"]))
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(CONFIGS[request.param], dtype=torch.bfloat16)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.06)
    model.save_pretrained(made)
    tiny.tiny_tokenizer().save_pretrained(made)
    return made


@lru_cache(maxsize=8)
def engine(folder: Path, **settings: Any) -> Engine:
    """Made once: what one test has left in its prefix cache must not matter to the next."""
    options = {
        "num_blocks": sized(4000, dry=400),
        "max_batch_tokens": 4096,
        "max_num_seqs": 32,
        "batch_invariant": True,
    }
    return build_engine(RevisionSpec("r", folder, EngineConfig(device=DEVICE, **(options | settings))))


def submit(
    engine: Engine, name: str, prompt: list[int], sampling: Sampling, *, priority: int = 0
) -> list[Event]:
    events: list[Event] = []
    request = GenerateRequest(name, "r", tuple(prompt), Owner("o", "s"), sampling, priority=priority)
    engine.submit(request, events.append)
    return events


def run(engine: Engine) -> None:
    while engine.has_work:
        engine.step()
    engine.check_integrity()


def said(events: list[Event], num_tokens: int = NUM_TOKENS) -> Said:
    deltas = [event for event in events if isinstance(event, Delta)]
    tokens = [token_id for delta in deltas for token_id in delta.token_ids]
    logprobs = [logprob for delta in deltas for logprob in delta.logprobs] or [None] * len(tokens)
    assert len(tokens) == num_tokens
    return list(zip(tokens, logprobs, strict=True))


def alone(engine: Engine, prompt: list[int], sampling: Sampling) -> Said:
    events = submit(engine, f"alone-{secrets.token_hex(4)}", prompt, sampling)
    run(engine)
    return said(events)


def in_company(
    engine: Engine, num_others: int, prompt: list[int], sampling: Sampling, *, tells: bool
) -> Said:
    """Among random others, before and after it. `tells`: they want log-probabilities."""
    seed = secrets.randbits(31)
    print(f"company of {num_others}, seed {seed}")
    chance = random.Random(seed)
    place, events = chance.randrange(num_others + 1), list[Event]()
    for index in range(num_others + 1):
        if index == place:
            events = submit(engine, f"own-{seed}", prompt, sampling)
        else:
            other = Sampling(
                temperature=chance.choice([0.0, 1.0]),
                max_tokens=chance.randrange(1, sized(60, dry=20)),
                ignore_eos=True,
                logprobs=1 if tells else None,
            )
            length = chance.choice([1, 17, 300, sized(2500, dry=300)]) + chance.randrange(30)
            submit(engine, f"{seed}-{index}", tiny.prompt(length, seed=seed + index), other)
        for _ in range(chance.randrange(4)):
            engine.step()
    run(engine)
    return said(events)


def test_company_chunks_and_prefix_hits_change_no_bit(folder: Path) -> None:
    """One engine with a cache and small steps, against one without and with large steps."""
    plain = engine(folder, prefix_caching=False)
    busy = engine(folder, max_batch_tokens=416)
    for prompt, sampling in ((PROMPT, GREEDY), (PROMPT, DRAWN), (SHORT, GREEDY), (PROMPT[:1], GREEDY)):
        expected = alone(plain, prompt, sampling)
        for num_others in NUM_OTHERS:
            for served in (plain, busy):
                found = in_company(served, num_others, prompt, sampling, tells=num_others in (3, 6))
                assert found == expected, f"beside {num_others} others"


def test_steps_that_overlap_change_no_token(folder: Path) -> None:
    served = engine(folder)
    for sampling in (replace(GREEDY, logprobs=None), replace(DRAWN, logprobs=None)):
        expected = alone(served, PROMPT, sampling)
        for num_others in NUM_OTHERS:
            assert in_company(served, num_others, PROMPT, sampling, tells=False) == expected


def test_neither_graphs_nor_the_size_they_are_padded_to_change_a_bit(folder: Path) -> None:
    expected = alone(engine(folder), PROMPT, GREEDY)
    assert alone(engine(folder, cuda_graphs=False), PROMPT, GREEDY) == expected
    assert (
        in_company(engine(folder, max_num_seqs=20), sized(12, dry=2), PROMPT, GREEDY, tells=True) == expected
    )


def test_a_preemption_changes_no_bit(folder: Path) -> None:
    expected = alone(engine(folder), PROMPT, GREEDY)
    small = engine(folder, num_blocks=len(PROMPT) // 16 + len(PROMPT) // 32 + 8)  # for it and one other
    events = submit(small, "own", PROMPT, GREEDY)
    while not any(isinstance(event, Delta) for event in events):
        small.step()
    for index in range(4):  # together they need what it holds, and come first
        sampling = Sampling(temperature=0.0, max_tokens=8, ignore_eos=True)
        submit(small, f"first-{index}", tiny.prompt(len(PROMPT) // 2, seed=index), sampling, priority=1)
    run(small)
    (finish,) = [event for event in events if isinstance(event, Finish)]
    assert finish.timings.num_preemptions > 0, "the pool was to be too small"
    assert said(events) == expected


@needs_gpu
def test_without_the_mode_the_company_is_felt(folder: Path) -> None:
    """So the tests above can fail."""
    plain = engine(folder, batch_invariant=False, prefix_caching=False)
    expected = alone(plain, PROMPT, GREEDY)
    found = [in_company(plain, num_others, PROMPT, GREEDY, tells=True) for num_others in NUM_OTHERS]
    assert any(one != expected for one in found)


@needs_gpu
def test_what_cannot_be_kept_is_refused(folder: Path) -> None:
    for settings in ({"quantization": "int8"}, {"fused_layers": False}):
        with pytest.raises(CannotLoad, match="batch_invariant on a GPU needs"):
            engine(folder, **settings)


@needs_gpu
@pytest.mark.parametrize("shape", [(6144, 4096), (4096, 14336), (1000, 512), (777, 96), (128256, 1024)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_a_row_of_a_product_is_the_same_among_any_others(shape: tuple[int, int], dtype: torch.dtype) -> None:
    from inference.kernels.matmul import agreeing_tiles, invariant_product, tiles_of

    seed = secrets.randbits(31)
    torch.manual_seed(seed)
    num_outputs, num_inputs = shape
    weight = torch.randn(num_outputs, num_inputs, device=DEVICE, dtype=dtype) / num_inputs**0.5
    bias = torch.randn(num_outputs, device=DEVICE, dtype=dtype)
    x = torch.randn(1000, num_inputs, device=DEVICE, dtype=dtype)
    tiles = agreeing_tiles(weight)
    print(f"seed {seed}: {len(tiles)} of {len(tiles_of(weight))} tiles agree")
    whole = invariant_product(x, weight, bias, tiles)
    expected = x.double() @ weight.double().T + bias.double()
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(whole.double(), expected, atol=tolerance, rtol=tolerance)
    for num_rows in (1, 2, 7, 32, 63, 64, 65, 128, 200, 256, 257, 999):
        assert torch.equal(invariant_product(x[:num_rows], weight, bias, tiles), whole[:num_rows])
        last = invariant_product(x[-num_rows:].contiguous(), weight, bias, tiles)
        assert torch.equal(last, whole[-num_rows:])


def test_a_draw_is_the_same_among_any_others() -> None:
    torch.manual_seed(1)
    for vocab_size in sized((1000, 32003, 128256), dry=(1000,)):
        scores = 2 * torch.randn(256, vocab_size, device=DEVICE)
        samplings = [Sampling(temperature=1.0, top_p=0.9 if row % 2 else 1.0) for row in range(256)]
        randoms = [uniform(seed=row, position=0) for row in range(256)]
        together = draw(scores, samplings, randoms).tolist()
        for num_rows in (1, 3, 32):
            for first in range(0, 256 - num_rows, 17):
                rows = slice(first, first + num_rows)
                found = draw(scores[rows].clone(), samplings[rows], randoms[rows]).tolist()
                assert found == together[rows]
