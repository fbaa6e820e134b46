"""33,000 keys: the kernels against torch's SDPA, and a whole engine against its own reference."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from inference.attention.base import AttentionParameters, SequenceSlice, causal_mask
from inference.config import EngineConfig, RevisionSpec
from inference.execution.build import build_engine
from inference.protocol.events import Delta, Event
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from tests.gpu.device import DEVICE, needs_gpu, sized
from tests.gpu.test_kernels import TOLERANCE, Pool, batch_of, pool, seed, slices
from tests.inference import tiny

__all__ = ["seed"]  # a fixture: another seed in every run
pytestmark = pytest.mark.gpu
NUM_KEYS, BLOCK_SIZE, NUM_BLOCKS = 33_000, 16, 7_000
CASES = {
    "decode": [(1, NUM_KEYS), (1, 5), (1, NUM_KEYS - 15), (1, 17_001)],
    "prefill": [(512, NUM_KEYS), (33, 20_000)],
    "mixed": [(1, NUM_KEYS), (1, 40), (200, NUM_KEYS)],
}


def sdpa(query: Tensor, cache: Pool, part: SequenceSlice, *, scaling: float, window: int | None) -> Tensor:
    """Of one sequence, in float32: `[num_tokens, num_heads, head_dim]`."""
    blocks = torch.tensor(part.block_table, device=DEVICE)[:, None] * BLOCK_SIZE
    rows = (blocks + torch.arange(BLOCK_SIZE, device=DEVICE)).flatten()[: part.kv_len]
    own = query[part.offset : part.offset + part.num_tokens].float().transpose(0, 1)[None]
    keys, values = (which[0][rows].float().transpose(0, 1)[None] for which in (cache.keys, cache.values))
    mask = causal_mask(part.kv_len, part.num_tokens, window=window, device=torch.device("cuda"))
    out = F.scaled_dot_product_attention(own, keys, values, mask, scale=scaling, enable_gqa=True)
    return out[0].transpose(0, 1)


@needs_gpu
@pytest.mark.parametrize("window", [None, 4096])
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), [(32, 8, 128), (9, 3, 64)])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("case", CASES)
def test_kernels_over_many_keys_are_sdpa(
    case: str, dtype: torch.dtype, heads: int, kv_heads: int, dim: int, window: int | None
) -> None:
    from inference.attention.triton import TritonAttention

    parts = slices(CASES[case], NUM_BLOCKS, BLOCK_SIZE)
    cache = pool(NUM_BLOCKS, BLOCK_SIZE, kv_heads, dim, dtype)
    # queries near some keys: attention that is spread evenly over 33,000 says little
    query = 3 * torch.randn(sum(part.num_tokens for part in parts), heads, dim, device=DEVICE, dtype=dtype)
    options: dict[str, Any] = {"scaling": dim**-0.5, "window": window}
    attention = TritonAttention(cache, batch_of(parts, BLOCK_SIZE, heads // kv_heads))
    got = attention.attend_pool(0, query, AttentionParameters(**options)).float()
    expected = torch.cat([sdpa(query, cache, part, **options) for part in parts])
    for part in parts:
        own = slice(part.offset, part.offset + part.num_tokens)
        error = (got[own] - expected[own]).norm() / expected[own].norm()
        assert error.item() < TOLERANCE[dtype], part.kv_len


@pytest.mark.parametrize("graphs", [True, False])
def test_an_engine_reads_a_long_prompt_as_the_reference_does(tmp_path: Path, graphs: bool) -> None:
    """Positions, block tables, chunks and a prefix found again, at 20,000 tokens, in float32."""
    shape = tiny.SHAPE | {"num_hidden_layers": 2, "max_position_embeddings": 32_768}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(LlamaConfig(**shape), dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.3)
    model.save_pretrained(tmp_path)
    tiny.tiny_tokenizer().save_pretrained(tmp_path)
    said = []
    for options in ({"cuda_graphs": graphs}, {"attention": "reference"}):
        config = EngineConfig(
            **options,
            device=DEVICE,
            dtype="float32",
            num_blocks=sized(1_500, dry=100),
            max_batch_tokens=sized(2_048, dry=128),
            max_num_seqs=4,
        )
        engine = build_engine(RevisionSpec("long", tmp_path, config))
        for turn in range(2):
            events: list[Event] = []
            sampling = Sampling(temperature=0.0, max_tokens=16, ignore_eos=True)
            prompt = tuple(tiny.prompt(sized(20_000, dry=700)))
            request = GenerateRequest(f"r{turn}", "long", prompt, Owner(id="o", salt="s"), sampling)
            engine.submit(request, events.append)
            while engine.has_work:
                engine.step()
            said.append([t for event in events if isinstance(event, Delta) for t in event.token_ids])
    assert len(said[0]) == 16 and said.count(said[0]) == len(said)
