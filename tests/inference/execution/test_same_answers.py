"""The same request, cold and warm, in other chunks, preempted, in company: to the bit in compiled layers.

Whole engines over real folders; what is compared are tokens and log-probabilities as they leave it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import PretrainedConfig

from inference.config import EngineConfig
from inference.cpu import compiler
from inference.models.loader import LoadedModel, load_model
from inference.protocol.requests import Sampling
from inference.quantization.linear import allow_rounding
from tests.inference import tiny
from tests.inference.execution.same_answers import (
    BIASED,
    DRAWN,
    GREEDY,
    LENGTHS,
    LLAMA,
    SLIDING,
    answer,
    ask,
    engine,
    first_logprobs,
    folder_of,
    run,
)

COMPILED: dict[str, tuple[PretrainedConfig, dict[str, Any], bool]] = {  # config, settings, may it round?
    "bfloat16 files": (LLAMA, {}, False),
    "bfloat16 files, sliding": (SLIDING, {}, False),
    "bfloat16 files, biased": (BIASED, {}, False),
    "int8": (LLAMA, {"quantization": "int8"}, False),
    "int8, rounded": (LLAMA, {"quantization": "int8"}, True),
    "int8 and head": (BIASED, {"quantization": "int8", "quantize_head": True}, False),
    "int8 and head, rounded": (SLIDING, {"quantization": "int8", "quantize_head": True}, True),
    "int4 and head": (LLAMA, {"quantization": "int4", "quantize_head": True}, False),
    "int4 and head, rounded": (BIASED, {"quantization": "int4", "quantize_head": True}, True),
    "w8a8 and head, rounded": (LLAMA, {"quantization": "w8a8", "quantize_head": True}, True),
}


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=COMPILED)
def compiled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    if not compiler.works():
        pytest.skip("nothing can be compiled here")
    config, settings, rounds = COMPILED[request.param]
    loaded = load_model(
        folder_of(config, tmp_path_factory.mktemp("model")),
        EngineConfig(device="cpu", dtype="float32", **settings),
    )
    if rounds:
        allow_rounding(loaded.model)
    return loaded


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
@pytest.mark.parametrize("length", LENGTHS)
def test_cold_and_warm(compiled: LoadedModel, length: int, sampling: Sampling) -> None:
    served, prompt = engine(compiled), tiny.prompt(length)
    cold = answer(served, prompt, sampling)
    warm = ask(served, prompt, sampling)
    run(served)
    assert warm.finish.usage.cached_tokens >= length - 16
    assert warm.said == cold
    assert answer(engine(compiled, prefix_caching=False), prompt, sampling) == cold


@pytest.mark.parametrize("length", LENGTHS)
def test_other_chunks(compiled: LoadedModel, length: int) -> None:
    prompt = tiny.prompt(length)
    whole = answer(engine(compiled), prompt)
    for max_batch_tokens in (1, 7, 23, 64):
        assert answer(engine(compiled, max_batch_tokens=max_batch_tokens), prompt) == whole


def test_blocks_of_other_sizes(compiled: LoadedModel) -> None:
    """Of which some divide nothing: the engine's chunks then end within groups of keys."""
    for block_size in (3, 5):
        prompt = tiny.prompt(LENGTHS[1])
        settings = {"block_size": block_size, "num_blocks": 200}
        whole = answer(engine(compiled, **settings), prompt)
        assert answer(engine(compiled, **settings, max_batch_tokens=29), prompt) == whole


@pytest.mark.parametrize("sampling", [GREEDY, DRAWN], ids=["greedy", "drawn"])
def test_in_company(compiled: LoadedModel, sampling: Sampling) -> None:
    """Of seven others, some ahead and some behind, with prompts of their own."""
    prompts = [tiny.prompt(length, seed=7) for length in (45, 20, 131, 1, 301, 64, 17, 90)]
    expected = [answer(engine(compiled), prompt, sampling) for prompt in prompts]
    served = engine(compiled, max_batch_tokens=96)
    answers = []
    for index, prompt in enumerate(prompts):
        answers.append(ask(served, prompt, sampling, name=f"r{index}"))
        served.step()
    run(served)
    assert [one.said for one in answers] == expected


def test_preempted(compiled: LoadedModel) -> None:
    prompt = tiny.prompt(LENGTHS[1])
    expected = answer(engine(compiled), prompt)
    small = engine(compiled, num_blocks=15, prefix_caching=False)
    own = ask(small, prompt, GREEDY)
    for index in range(2):
        other = replace(GREEDY, max_tokens=60)
        ask(small, tiny.prompt(34, seed=index), other, name=f"other-{index}", priority=1)
        small.step()
    run(small)
    assert own.finish.timings.num_preemptions > 0, "the pool was to be too small"
    assert own.said == expected


# What torch computes in bfloat16 is rounded to 8 bits in between, otherwise for other numbers of rows.
# Logits are not rounded, nor what the layers add up: or log-probabilities, here -5, were 0.008 apart.
MOST_APART = 0.006  # a fifth of a step of bfloat16 at -5; 0.003 were found
ROUNDED: dict[str, PretrainedConfig] = {"fused": LLAMA, "sliding": SLIDING, "biased": BIASED}


@pytest.fixture(scope="module", params=ROUNDED)
def rounded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    folder = folder_of(ROUNDED[request.param], tmp_path_factory.mktemp("model"), loudness=0.04)
    return load_model(folder, EngineConfig(device="cpu", dtype="bfloat16"))


def test_in_bfloat16_log_probabilities_stay_within_a_step(rounded: LoadedModel) -> None:
    asked = replace(GREEDY, logprobs=20)
    for length in LENGTHS:
        prompt = tiny.prompt(length)
        served = engine(rounded)
        cold, warm = answer(served, prompt, asked), answer(served, prompt, asked)
        chunked = answer(engine(rounded, max_batch_tokens=23), prompt, asked)
        for other in (warm, chunked):
            before, after = first_logprobs(cold), first_logprobs(other)
            assert len(before.keys() & after.keys()) >= 18
            assert max(abs(before[one] - after[one]) for one in before.keys() & after.keys()) < MOST_APART


def test_in_bfloat16_logits_are_not_rounded(rounded: LoadedModel) -> None:
    if not compiler.works():
        pytest.skip("nothing can be compiled here")
    found = [one.logprob for _, said in answer(engine(rounded), tiny.prompt(45)) for one in said.top]
    spread = torch.tensor(found, dtype=torch.float32) - found[0]
    assert not torch.equal(spread, spread.bfloat16().float())
