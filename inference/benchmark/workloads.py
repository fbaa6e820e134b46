"""The request lists that every engine is measured on: fixed seeds, random token ids, end-of-sequence ignored.

Peers outside this repository run the same lists, so the order of the random draws is part of them.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

TokenIds = tuple[int, ...]

PASSAGE = range(300, 364)  # what `copied` repeats; token ids that every vocabulary has


@dataclass(frozen=True, slots=True)
class Item:
    """A prompt and how many tokens are to follow it."""

    prompt: TokenIds
    num_output_tokens: int


def random_ids(source: random.Random, count: int, vocab_size: int) -> TokenIds:
    """Token ids, each as likely as any other."""
    return tuple(source.randrange(vocab_size) for _ in range(count))


def with_new_prompts(items: list[Item], *, seed: int, vocab_size: int) -> list[Item]:
    """The same lengths with other tokens, so that a prefix cache knows none of them."""
    source = random.Random(seed)  # noqa: S311 - no secret
    return [Item(random_ids(source, len(item.prompt), vocab_size), item.num_output_tokens) for item in items]


def _lognormal(source: random.Random, median: int, sigma: float, low: int, high: int) -> int:
    return max(low, min(high, round(median * math.exp(source.gauss(0, sigma)))))


def mixed(num_requests: int = 256, *, seed: int = 0, vocab_size: int = 128000) -> list[Item]:
    """Chat-like: lognormal prompts (median 256, 16 to 2048) and outputs (median 160, 16 to 768)."""
    source = random.Random(seed)  # noqa: S311 - no secret
    return [
        Item(
            random_ids(source, _lognormal(source, 256, 0.8, 16, 2048), vocab_size),
            _lognormal(source, 160, 0.7, 16, 768),
        )
        for _ in range(num_requests)
    ]


def fixed(
    num_requests: int,
    num_prompt_tokens: int = 512,
    num_output_tokens: int = 256,
    *,
    seed: int = 1,
    vocab_size: int = 128000,
) -> list[Item]:
    """Every request of one shape, all queued at once."""
    source = random.Random(seed)  # noqa: S311 - no secret
    return [
        Item(random_ids(source, num_prompt_tokens, vocab_size), num_output_tokens)
        for _ in range(num_requests)
    ]


def uniform(num_requests: int = 256, *, seed: int = 0, vocab_size: int = 10000) -> list[Item]:
    """Prompts and outputs of 100 to 1024 tokens: the list that small engines publish figures for."""
    source = random.Random(seed)  # noqa: S311 - no secret
    prompts = [random_ids(source, source.randint(100, 1024), vocab_size) for _ in range(num_requests)]
    return [Item(prompt, source.randint(100, 1024)) for prompt in prompts]


def shared_prefix(
    num_groups: int = 10,
    num_per_group: int = 13,
    *,
    num_prefix_tokens: int = 1024,
    num_unique_tokens: int = 128,
    num_output_tokens: int = 64,
    seed: int = 3,
    vocab_size: int = 128000,
) -> list[Item]:
    """System-prompt traffic: groups of requests that share a long prefix."""
    source = random.Random(seed)  # noqa: S311 - no secret
    prefixes = [random_ids(source, num_prefix_tokens, vocab_size) for _ in range(num_groups)]
    return [
        Item(prefix + random_ids(source, num_unique_tokens, vocab_size), num_output_tokens)
        for _ in range(num_per_group)
        for prefix in prefixes
    ]


def copied(num_requests: int, num_repeats: int = 4, *, num_output_tokens: int = 256) -> list[Item]:
    """Copy-heavy: prompts that say a passage several times over, each from another place in it on.

    A trained model goes on copying; one of random weights does where `--repeating` has made it.
    """
    passage = list(PASSAGE)
    return [
        Item(tuple(passage[number:] + passage * (num_repeats - 1) + passage[:number]), num_output_tokens)
        for number in range(num_requests)
    ]


WORKLOADS: dict[str, Callable[[int], list[Item]]] = {  # name -> (vocabulary size -> list)
    "chat1": lambda vocab_size: fixed(1, 48, 64, vocab_size=vocab_size),
    "chat8": lambda vocab_size: fixed(8, 48, 64, vocab_size=vocab_size),
    "chat32": lambda vocab_size: fixed(32, 48, 64, vocab_size=vocab_size),
    "decode1": lambda vocab_size: fixed(1, vocab_size=vocab_size),
    "decode8": lambda vocab_size: fixed(8, vocab_size=vocab_size),
    "decode32": lambda vocab_size: fixed(32, vocab_size=vocab_size),
    "decode128": lambda vocab_size: fixed(128, vocab_size=vocab_size),
    "decode256": lambda vocab_size: fixed(256, vocab_size=vocab_size),
    "decode256x2": lambda vocab_size: fixed(512, vocab_size=vocab_size),  # in two waves, as when served
    "copy1": lambda _: copied(1),
    "copy8": lambda _: copied(8),
    "copy32": lambda _: copied(32),
    "mixed256": lambda vocab_size: mixed(vocab_size=min(vocab_size, 128000)),
    "nano256": lambda vocab_size: uniform(vocab_size=min(vocab_size, 10000)),
    "prefill64": lambda vocab_size: fixed(64, 2048, 1, vocab_size=vocab_size),
    "shared130": lambda vocab_size: shared_prefix(vocab_size=vocab_size),
}
