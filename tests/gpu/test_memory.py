"""A GPU filled to the brim: every block of the planned pool in use, all rows sampled at the greatest cost."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from inference.checkpoints.model_folder import CannotLoad
from inference.config import EngineConfig, RevisionSpec
from inference.execution.build import build_engine
from inference.protocol.events import Event, Finish, FinishReason
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from tests.inference import tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]

NUM_SEQUENCES = 256
MAX_MODEL_LEN = 65_536
NUM_TOKENS = 24


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Few weights, a wide vocabulary, and 16 KB of keys and values a token."""
    made: Path = tmp_path_factory.mktemp("wide")
    config = LlamaConfig(
        vocab_size=128_256,
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=2,
        num_attention_heads=16,
        num_key_value_heads=16,
        head_dim=128,
        max_position_embeddings=MAX_MODEL_LEN,
        bos_token_id=256,
        eos_token_id=257,
        pad_token_id=258,
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(made)
    tiny.tiny_tokenizer().save_pretrained(made)
    return made


def test_a_full_pool_and_the_costliest_step_leave_what_was_planned(folder: Path) -> None:
    engine = build_engine(
        RevisionSpec(
            "wide", folder, EngineConfig(device="cuda", prefix_caching=False, max_queued_tokens=10**9)
        )
    )
    free_bytes, total_bytes = torch.cuda.mem_get_info()
    num_blocks, block_size = engine.pool.num_blocks, engine.pool.block_size
    print(f"{num_blocks} blocks, {engine.card.kv_bytes / 2**30:.1f} GiB of keys and values")
    print(f"{free_bytes / 2**20:.0f} MiB of {total_bytes / 2**30:.1f} GiB left when ready")
    num_ooms = torch.cuda.memory_stats()["num_ooms"]
    chance = random.Random(0)
    # All blocks but the spare one that each running sequence leaves to the others when one is admitted.
    length = min(MAX_MODEL_LEN - NUM_TOKENS, (num_blocks // NUM_SEQUENCES - 2) * block_size - NUM_TOKENS)
    ends: list[Event] = []
    for index in range(NUM_SEQUENCES):
        sampling = Sampling(temperature=1.0, top_p=0.99, seed=index, max_tokens=NUM_TOKENS, ignore_eos=True)
        prompt = tuple(chance.choices(range(256), k=length))
        request = GenerateRequest(str(index), "wide", prompt, Owner("o", "s"), sampling, allowance=1)
        engine.submit(request, lambda event: ends.append(event) if isinstance(event, Finish) else None)
    most_used, least_free = 0, free_bytes
    is_extended = False
    while engine.has_work:
        if not engine.step():  # all hold their prompts and wait for their allowance
            assert not is_extended
            is_extended = True
            for index in range(NUM_SEQUENCES):
                engine.extend(str(index), allowance=NUM_TOKENS, is_final=True)
        most_used = max(most_used, engine.stats().num_blocks_used)
        least_free = min(least_free, torch.cuda.mem_get_info()[0])
    print(
        f"{most_used / num_blocks:.1%} of the blocks used at once, {least_free / 2**20:.0f} MiB left at least"
    )
    print(f"torch had to give memory back {torch.cuda.memory_stats()['num_alloc_retries']} times")
    assert [end.reason for end in ends if isinstance(end, Finish)] == [FinishReason.LENGTH] * NUM_SEQUENCES
    assert torch.cuda.memory_stats()["num_ooms"] == num_ooms
    assert most_used > 0.95 * num_blocks or length == MAX_MODEL_LEN - NUM_TOKENS
    assert least_free > 0


def test_a_pool_that_does_not_fit_is_refused(folder: Path) -> None:
    too_many = 2 * torch.cuda.mem_get_info()[1] // (16 * 16_384)
    with pytest.raises(CannotLoad, match="too little memory"):
        build_engine(RevisionSpec("wide", folder, EngineConfig(device="cuda", num_blocks=too_many)))
