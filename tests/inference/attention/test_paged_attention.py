"""Both attention implementations give plain attention over each sequence's own tokens."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig

from inference.attention import base, cpu
from inference.attention.base import Layout, Step, Stretch, paged_attention
from inference.attention.cpu import CpuStep
from inference.attention.reference import ReferenceStep
from inference.execution.kv_cache import KVCache, token_bytes

BLOCK_SIZE, NUM_BLOCKS, HEADS, KV_HEADS, DIM = 4, 64, 6, 2, 8
SCALING = 0.3
CONFIG = LlamaConfig(
    num_hidden_layers=2, num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, hidden_size=HEADS * DIM
)
# (tokens cached before, new tokens): decode rows short and long, chunks at the start and in the middle
STRETCHES = [(6, 1), (0, 9), (40, 1), (13, 5), (0, 1), (3, 1)]


def plain_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    window: int | None,
    softcap: float | None,
    sinks: Tensor | None = None,
) -> Tensor:
    """Token by token, head by head, in float64."""
    out = torch.zeros(query.shape, dtype=torch.float64)
    num_cached = len(keys) - len(query)
    for token in range(len(query)):
        position = num_cached + token
        first = 0 if window is None else max(0, position - window + 1)
        for head in range(HEADS):
            kv_head = head // (HEADS // KV_HEADS)
            seen = slice(first, position + 1)
            scores = keys[seen, kv_head].double() @ query[token, head].double() * SCALING
            if softcap is not None:
                scores = torch.tanh(scores / softcap) * softcap
            weights = scores.exp()
            total = weights.sum() if sinks is None else weights.sum() + sinks[head].double().exp()
            out[token, head] = weights @ values[seen, kv_head].double() / total
    return out


def new_cache() -> KVCache:
    return KVCache(
        CONFIG,
        num_blocks=NUM_BLOCKS,
        block_size=BLOCK_SIZE,
        dtype=torch.float32,
        device=torch.device("cpu"),
    )


def slot(table: Sequence[int], position: int) -> int:
    return table[position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE


@pytest.mark.parametrize("largest_scores", [1, 2**22])  # one token at a time, and all at once
@pytest.mark.parametrize("has_sinks", [False, True])
@pytest.mark.parametrize("softcap", [None, 0.7])
@pytest.mark.parametrize("window", [None, 5, 1000])
@pytest.mark.parametrize("smallest_group", [1, 16])
@pytest.mark.parametrize("step_class", [ReferenceStep, CpuStep])
def test_a_mixed_batch_is_plain_attention(
    step_class: type[Step],
    smallest_group: int,
    window: int | None,
    softcap: float | None,
    has_sinks: bool,
    largest_scores: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(cpu, "SMALLEST_GROUP_BLOCKS", smallest_group)
    monkeypatch.setattr(base, "LARGEST_SCORES", largest_scores)
    torch.manual_seed(0)
    cache, layer = new_cache(), 1
    free = torch.randperm(NUM_BLOCKS).tolist()
    stretches: list[Stretch] = []
    slots: list[int] = []
    texts: list[tuple[Tensor, Tensor]] = []
    offset = 0
    for num_cached, num_tokens in STRETCHES:
        kv_len = num_cached + num_tokens
        table = [free.pop() for _ in range(-(-kv_len // BLOCK_SIZE))]
        keys, values = torch.randn(kv_len, KV_HEADS, DIM), torch.randn(kv_len, KV_HEADS, DIM)
        for position in range(num_cached):
            cache.keys[layer][slot(table, position)] = keys[position]
            cache.values[layer][slot(table, position)] = values[position]
        slots += [slot(table, position) for position in range(num_cached, kv_len)]
        stretches.append(Stretch(offset, num_tokens, kv_len, table))
        texts.append((keys, values))
        offset += num_tokens
    query = torch.randn(offset, HEADS, DIM)
    sinks = torch.randn(HEADS) if has_sinks else None
    new_keys, new_values = (
        torch.cat([text[which][cached:] for text, (cached, _) in zip(texts, STRETCHES, strict=True)])
        for which in (0, 1)
    )
    step = step_class(cache, Layout(stretches, torch.tensor(slots)))
    module = nn.Module()
    module.layer_idx = layer  # type: ignore[assignment]
    q, k, v = (states.transpose(0, 1)[None] for states in (query, new_keys, new_values))
    out, _ = paged_attention(
        module,
        q,
        k,
        v,
        None,
        scaling=SCALING,
        paged_step=step,
        sliding_window=window,
        softcap=softcap,
        s_aux=sinks,
    )
    expected = [
        plain_attention(
            query[one.offset : one.offset + one.num_tokens],
            *text,
            window=window,
            softcap=softcap,
            sinks=sinks,
        )
        for one, text in zip(stretches, texts, strict=True)
    ]
    torch.testing.assert_close(out[0].double(), torch.cat(expected), atol=1e-5, rtol=1e-5)
    assert not cache.keys[0].any(), "another layer's pool was written"


@pytest.mark.parametrize("step_class", [ReferenceStep, CpuStep])
def test_decode_alone_is_plain_attention(step_class: type[Step]) -> None:
    torch.manual_seed(1)
    cache = new_cache()
    tables = [[5, 9], [1, 2]]
    kv_lens = [8, 5]
    for pool in (cache.keys[0], cache.values[0]):
        pool.normal_()
    query = torch.randn(2, HEADS, DIM)
    slots = [slot(table, kv_len - 1) for table, kv_len in zip(tables, kv_lens, strict=True)]
    stretches = [Stretch(i, 1, kv_lens[i], tables[i]) for i in range(2)]
    step = step_class(cache, Layout(stretches, torch.tensor(slots)))
    keys, values = cache.keys[0][slots], cache.values[0][slots]
    out = step.attend(0, query, keys, values, scaling=SCALING, window=None, softcap=None)
    for i, (table, kv_len) in enumerate(zip(tables, kv_lens, strict=True)):
        rows = [slot(table, position) for position in range(kv_len)]
        expected = plain_attention(
            query[i : i + 1], cache.keys[0][rows], cache.values[0][rows], window=None, softcap=None
        )
        torch.testing.assert_close(out[i : i + 1].double(), expected, atol=1e-5, rtol=1e-5)


def test_a_block_takes_the_memory_that_the_plan_counts() -> None:
    cache = new_cache()
    allocated = sum(pool.numel() * pool.element_size() for pool in (*cache.keys, *cache.values))
    counted = BLOCK_SIZE * token_bytes(CONFIG, dtype=torch.float32)
    assert allocated == NUM_BLOCKS * counted
