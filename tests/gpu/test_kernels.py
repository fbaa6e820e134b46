"""The Triton kernels against plain torch on fresh random inputs: another seed in every run, printed."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from inference.attention.base import Layout, Stretch
from inference.attention.split_kv import Cut
from tests.inference import tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
CUT = Cut(num_kv_heads=8, num_multiprocessors=132, max_keys=65536)
TOLERANCE = {torch.float32: 2e-5, torch.bfloat16: 2e-2}


@pytest.fixture(autouse=True)
def seed() -> int:
    drawn = secrets.randbits(31)
    print(f"seed {drawn}")
    torch.manual_seed(drawn)
    torch.backends.cuda.matmul.allow_tf32 = False
    return drawn


@dataclass
class Pool:
    """A layer's pool of random keys and values."""

    keys: list[Tensor]
    values: list[Tensor]
    num_blocks: int
    block_size: int


def pool(num_blocks: int, block_size: int, num_kv_heads: int, dim: int, dtype: torch.dtype) -> Pool:
    shape = (num_blocks * block_size, num_kv_heads, dim)
    keys, values = (torch.randn(shape, device="cuda", dtype=dtype) for _ in range(2))
    return Pool([keys], [values], num_blocks, block_size)


def stretches(lengths: list[tuple[int, int]], num_blocks: int, block_size: int) -> list[Stretch]:
    """(new tokens, keys) per sequence, each with blocks of its own in random order."""
    order = torch.randperm(num_blocks).tolist()
    made, offset = [], 0
    for num_tokens, kv_len in lengths:
        table = [order.pop() for _ in range(-(-kv_len // block_size))]
        made.append(Stretch(offset, num_tokens, kv_len, table))
        offset += num_tokens
    return made


def batch_of(parts: list[Stretch], block_size: int, group: int, cut: Cut = CUT) -> Any:
    from inference.attention.triton import PagedBatch
    from inference.kernels.prefill_attention import tokens_per_tile

    width = max(len(part.block_table) for part in parts)
    tables = torch.zeros(len(parts), width, dtype=torch.int32)
    for row, part in enumerate(parts):
        tables[row, : len(part.block_table)] = torch.tensor(part.block_table)
    num_decode = next((i for i, part in enumerate(parts) if part.num_tokens > 1), len(parts))
    rest = parts[num_decode:]
    tiles = [(i, t) for i, part in enumerate(rest) for t in range(0, part.num_tokens, tokens_per_tile(group))]
    sequences = [(num_decode + i, part.offset, part.num_tokens, part.kv_len) for i, part in enumerate(rest)]
    on_gpu = {"dtype": torch.int32, "device": "cuda"}
    lens = np.array([part.kv_len for part in parts[:num_decode]], dtype=np.int64)
    items, places = cut.items(lens) if num_decode else (np.empty((0, 4)), np.empty((0, 2)))
    return PagedBatch(
        slots=torch.zeros(sum(part.num_tokens for part in parts), **on_gpu),
        tables=tables.cuda(),
        num_decode=num_decode,
        rows=torch.arange(num_decode, **on_gpu),
        lens=torch.tensor(lens, **on_gpu),
        items=torch.tensor(items, **on_gpu),
        parts=torch.tensor(places, **on_gpu),
        tiles=torch.tensor(tiles, **on_gpu).view(-1, 2),
        sequences=torch.tensor(sequences, **on_gpu).view(-1, 4),
    )


CASES = {
    "decode": [(1, 1), (1, 16), (1, 17), (1, 700), (1, 64), (1, 5)],
    "one sequence": [(1, 1500)],
    "prefill": [(130, 130), (7, 7), (64, 64), (2, 300), (33, 97)],
    "mixed": [(1, 40), (1, 513), (200, 260), (5, 5), (1, 90)],
    "large batch": [(1, 10 + i) for i in range(200)],
    "uneven batch": [(1, 3000), *[(1, 1 + 3 * i) for i in range(120)], (1, 1999)],
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dim", "dtype"),
    [
        (32, 8, 128, torch.bfloat16),
        (9, 3, 64, torch.bfloat16),
        (8, 8, 96, torch.bfloat16),
        (16, 1, 256, torch.bfloat16),
        (6, 2, 8, torch.float32),
        (32, 8, 128, torch.float32),
    ],
)
@pytest.mark.parametrize(
    ("window", "softcap", "has_sinks"), [(None, None, False), (21, None, True), (None, 5.0, False)]
)
def test_paged_attention_equals_the_reference(
    case: str,
    heads: int,
    kv_heads: int,
    dim: int,
    dtype: torch.dtype,
    window: int | None,
    softcap: float | None,
    has_sinks: bool,
) -> None:
    from inference.attention.reference import ReferenceStep
    from inference.attention.triton import TritonStep

    block_size = 16 if dim >= 64 else 4
    parts = stretches(CASES[case], 4000 // block_size * 10, block_size)
    cache = pool(4000 // block_size * 10, block_size, kv_heads, dim, dtype)
    num_tokens = sum(part.num_tokens for part in parts)
    query = torch.randn(num_tokens, heads, dim, device="cuda", dtype=dtype)
    dummy = torch.empty(num_tokens, kv_heads, dim, device="cuda", dtype=dtype)
    sinks = torch.randn(heads, device="cuda", dtype=torch.float32) if has_sinks else None
    options: dict[str, Any] = {"scaling": dim**-0.5, "window": window, "softcap": softcap, "sinks": sinks}
    got = TritonStep(cache, batch_of(parts, block_size, heads // kv_heads)).attend(
        0, query, dummy, dummy, **options
    )
    exact = Pool([cache.keys[0].float()], [cache.values[0].float()], cache.num_blocks, block_size)
    layout = Layout(parts, slots=torch.zeros(num_tokens, dtype=torch.long, device="cuda"))
    expected = ReferenceStep(exact, layout).attend(0, query.float(), dummy.float(), dummy.float(), **options)
    error = ((got.float() - expected).norm() / expected.norm()).item()
    assert error < TOLERANCE[dtype]
    assert (got.float() - expected).abs().max() < 10 * TOLERANCE[dtype] * expected.abs().max()


@pytest.mark.parametrize("name", tiny.LLAMA_LIKE)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fused_model_has_the_logits_of_the_model(name: str, dtype: torch.dtype) -> None:
    """On a batch of fresh prompts, against transformers' own forward of the same weights."""
    from inference.attention.triton import TritonStep
    from inference.fused.gpu import FusedModel

    model = tiny.tiny_model(name, seed=int(torch.randint(0, 1000, ()))).to("cuda", dtype)
    config, lengths = model.config, [(50, 50), (3, 3), (21, 21)]
    ids = [torch.randint(0, 256, (n,), device="cuda") for n, _ in lengths]
    with torch.inference_mode():
        expected = torch.cat([model(one[None]).logits[0] for one in ids]).float()
        fused = FusedModel(model)
        parts = stretches(lengths, 64, 4)
        kv_heads = config.num_key_value_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        layers = range(config.num_hidden_layers)
        pools = [pool(64, 4, kv_heads, dim, dtype) for _ in layers]
        cache = Pool([one.keys[0] for one in pools], [one.values[0] for one in pools], 64, 4)
        batch = batch_of(parts, 4, config.num_attention_heads // kv_heads)
        batch.slots.copy_(
            torch.tensor([part.block_table[p // 4] * 4 + p % 4 for part in parts for p in range(part.kv_len)])
        )
        positions = torch.cat([torch.arange(n, device="cuda") for n, _ in lengths])
        got = fused(torch.cat(ids), positions, logit_rows=None, step=TritonStep(cache, batch)).float()
        again = torch.cat([model(one[None]).logits[0] for one in ids]).float()
    assert ((got - expected).norm() / expected.norm()).item() < (1e-4 if dtype == torch.float32 else 6e-2)
    assert torch.equal(again, expected)  # the model's own layers are views of the joined weights


@pytest.mark.parametrize(("num_rows", "vocab_size"), [(1, 128256), (7, 300), (33, 49152)])
def test_the_likeliest_token_is_the_first_of_the_largest(num_rows: int, vocab_size: int) -> None:
    from inference.kernels.greedy import choose_greedily

    logits = torch.randn(num_rows, vocab_size, device="cuda", dtype=torch.bfloat16)  # which has many ties
    last_tokens = torch.zeros(2 * num_rows, dtype=torch.int32, device="cuda")
    rows = torch.randperm(2 * num_rows, device="cuda")[:num_rows].to(torch.int32)
    got = choose_greedily(logits, rows, last_tokens)
    largest = logits.max(dim=-1, keepdim=True).values
    first = (logits == largest).int().argmax(dim=-1)
    assert torch.equal(got.long(), first)
    assert torch.equal(last_tokens[rows.long()], got)
    for broken in (float("nan"), float("inf")):
        logits[0, vocab_size // 2] = broken
        assert choose_greedily(logits, rows, last_tokens)[0] == -1
        logits[0, vocab_size // 2] = 0.0
