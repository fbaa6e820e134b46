"""The same request on a GPU, cold, warm, in other chunks, in company, preempted: within what a dtype rounds.

Tokens and log-probabilities are compared as they leave whole engines. In a dry run the engines are the CPU's.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, MistralConfig, PretrainedConfig, Qwen2Config

from inference.config import EngineConfig
from inference.models.loader import LoadedModel, load_model
from inference.protocol.requests import Sampling
from inference.scheduling.engine import Engine
from tests.gpu.device import DEVICE, IS_DRY_RUN, sized
from tests.inference import tiny
from tests.inference.execution.same_answers import (
    GREEDY,
    LENGTHS,
    SHAPE,
    Said,
    answer,
    ask,
    engine,
    folder_of,
    run,
)

pytestmark = pytest.mark.gpu

FULL = {"hidden_size": 1024, "intermediate_size": 2816, "num_attention_heads": 16, "head_dim": 64}
SIZES: dict[str, Any] = SHAPE | sized(FULL, dry={})
CONFIGS: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES),
    "sliding": MistralConfig(**SIZES, sliding_window=150),
    "biased": Qwen2Config(**SIZES),
}
SPREAD = 0.5  # of the logits: a head's weights are this, over the root of the width that they are added over
ASKED = replace(GREEDY, logprobs=20)
LONG = replace(ASKED, max_tokens=60)

# What is rounded on the way through a layer, each time to the nearest number of the dtype: both norms,
# queries and keys, values, attention, what it and the feed-forward add, both sums, gate, up, their product.
ROUNDINGS = 11
RMS = 0.4  # of a rounding's error, of the largest that it may be
SIGMAS = 5.0  # of thousands of log-probabilities none is to be further off


@dataclass
class Case:
    """A model as it is served."""

    loaded: LoadedModel
    settings: dict[str, Any]
    engines: dict[str, Engine] = field(default_factory=dict)

    def engine(self, **more: Any) -> Engine:
        """Made once, as its graphs take long: no test sends another's prompts to one that caches them."""
        name = str(more)
        if name not in self.engines:
            self.engines[name] = engine(self.loaded, device=DEVICE, **(self.settings | more))
        return self.engines[name]

    def cold(self, prompt: list[int], sampling: Sampling = ASKED) -> Said:
        return answer(self.engine(prefix_caching=False), prompt, sampling)

    @property
    def most_apart(self) -> float:
        """How far a log-probability may be from the same one of another way to compute it.

        Roundings of unlike sign add up as a random walk does, relative to the states; two walks part by the
        root of 2 more. Logits that are rounded as well may each be off by half a step, in both.
        """
        config = self.loaded.text_config
        half_step = torch.finfo(self.loaded.dtype).eps / 2
        walk = RMS * half_step * math.sqrt(ROUNDINGS * config.num_hidden_layers)
        apart = SIGMAS * math.sqrt(2) * walk * SPREAD
        is_rounded = not IS_DRY_RUN and not self.settings["float32_logits"]
        return apart + (2 * half_step * SIGMAS * SPREAD if is_rounded else 0.0)


KINDS = [(name, "bfloat16", None) for name in sized(list(CONFIGS), dry=["sliding"])]
KINDS += sized([("llama", "float16", None)], dry=[])
KINDS += sized([("llama", "bfloat16", kind) for kind in ("int8", "int4")], dry=[])


@pytest.fixture(
    scope="module",
    params=[(*kind, is_wide) for kind in KINDS for is_wide in sized((False, True), dry=(True,))],
    ids=lambda one: f"{one[0]}-{one[1]}-{one[2]}-{'float32' if one[3] else 'rounded'}",
)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name, dtype, quantization, float32_logits = request.param
    loudness = SPREAD / math.sqrt(SIZES["hidden_size"])
    folder = folder_of(CONFIGS[name], tmp_path_factory.mktemp("model"), loudness=loudness)
    is_quantized = quantization is not None
    config = EngineConfig(device=DEVICE, dtype=dtype, quantization=quantization, quantize_head=is_quantized)
    return Case(load_model(folder, config), {"dtype": dtype, "float32_logits": float32_logits})


def largest_difference(one: Said, other: Said) -> float:
    """Of log-probabilities of the same continuation: up to the first token that differs, that one as well."""
    largest = 0.0
    for (token, said), (other_token, other_said) in zip(one, other, strict=True):
        before, after = ({best.token_id: best.logprob for best in of.top} for of in (said, other_said))
        shared = before.keys() & after.keys()
        if len(shared) < 15:
            return math.inf  # no continuation of the same prompt
        largest = max([largest, *(abs(before[each] - after[each]) for each in shared)])
        if token != other_token:
            return largest
    return largest


def assert_same(case: Case, one: Said, other: Said) -> None:
    assert largest_difference(one, other) < case.most_apart


@pytest.mark.parametrize("length", LENGTHS)
def test_cold_and_warm(case: Case, length: int) -> None:
    served, prompt = case.engine(), tiny.prompt(length, seed=length)
    cold = answer(served, prompt, ASKED)
    warm = ask(served, prompt, ASKED)
    run(served)
    assert warm.finish.usage.cached_tokens >= length - 16
    assert_same(case, cold, warm.said)
    assert_same(case, cold, case.cold(prompt))


@pytest.mark.parametrize("length", LENGTHS)
def test_other_chunks(case: Case, length: int) -> None:
    prompt = tiny.prompt(length)
    whole = case.cold(prompt)
    for max_batch_tokens in (23, 64):
        chunked = case.engine(max_batch_tokens=max_batch_tokens, prefix_caching=False)
        assert_same(case, whole, answer(chunked, prompt, ASKED))


def test_in_company_of_eight(case: Case) -> None:
    prompts = [tiny.prompt(length, seed=7) for length in (45, 20, 131, 1, 301, 64, 17, 90)]
    alone = [case.cold(prompt) for prompt in prompts]
    served = case.engine(max_batch_tokens=96)
    answers = []
    for index, prompt in enumerate(prompts):
        answers.append(ask(served, prompt, ASKED, name=f"r{index}"))
        served.step()
    run(served)
    for found, expected in zip(answers, alone, strict=True):
        assert_same(case, expected, found.said)


def test_preempted(case: Case) -> None:
    """131 and 60 tokens fill 12 blocks, beside two that come to 6 each: there are 17."""
    prompt = tiny.prompt(LENGTHS[1])
    expected = case.cold(prompt, LONG)
    small = case.engine(num_blocks=17, prefix_caching=False)
    own = ask(small, prompt, LONG)
    for index in range(2):
        ask(small, tiny.prompt(34, seed=index), LONG, name=f"other-{index}", priority=1)
        small.step()
    run(small)
    assert own.finish.timings.num_preemptions > 0, "the pool was to be too small"
    assert_same(case, expected, own.said)


def test_what_is_more_than_rounding_is_seen(case: Case) -> None:
    """A cached prefix that is lost moves log-probabilities by more than they may be apart."""
    served, prompt = case.engine(), tiny.prompt(LENGTHS[0], seed=3)
    cold = answer(served, prompt, ASKED)
    served.runner.zero_blocks(range(100))
    warm = answer(served, prompt, ASKED)
    assert largest_difference(cold, warm) > case.most_apart
