"""A pool in fp8: half the memory; what is written saturates; settings that cannot have it say so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from inference.attention.base import Layout, Stretch
from inference.attention.reference import ReferenceStep
from inference.checkpoints.model_folder import CannotLoad
from inference.config import EngineConfig, RevisionSpec
from inference.execution.build import build_engine
from inference.execution.kv_cache import KVCache, pool_dtype, token_bytes
from inference.models.loader import load_model
from inference.protocol.events import Delta, Event
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from tests.inference import tiny

FP8 = torch.float8_e4m3fn
CONFIG = tiny.CONFIGS["llama"]  # 2 key-value heads of 8


def pool(dtype: torch.dtype) -> KVCache:
    return KVCache(CONFIG, num_blocks=8, block_size=4, dtype=dtype, device=torch.device("cpu"))


def step_on(cache: KVCache, num_tokens: int) -> ReferenceStep:
    slots = torch.arange(4, 4 + num_tokens)
    return ReferenceStep(cache, Layout([Stretch(0, num_tokens, num_tokens, [1, 2])], slots=slots))


def test_the_setting_decides_over_the_dtype_and_the_memory() -> None:
    assert pool_dtype(EngineConfig(), torch.bfloat16) == torch.bfloat16
    assert pool_dtype(EngineConfig(kv_dtype="fp8"), torch.bfloat16) == FP8
    assert token_bytes(CONFIG, dtype=FP8) * 2 == token_bytes(CONFIG, dtype=torch.bfloat16)
    assert pool(FP8).num_bytes == 32 * token_bytes(CONFIG, dtype=FP8)


def test_what_is_written_saturates_and_a_nan_stays_one() -> None:
    cache = pool(FP8)
    key = torch.full((3, 2, 8), 1e6)
    key[0, 0, 0], key[1, 0, 0], key[2, 0, 0] = -1e6, float("nan"), 1.0625  # between two steps of fp8
    step_on(cache, 3).write(1, key, -key)
    for pool_of, sign in ((cache.keys, 1), (cache.values, -1)):
        found = sign * pool_of[1].float()[4:7]
        assert found[0, 0, 0] == -448 and found[1, 0, 0].isnan() and found[2, 0, 0] == 1.0
        assert (found[:, 1] == 448).all()
        assert not pool_of[0].float().any()  # the other layer


def test_blocks_with_a_nan_are_wiped() -> None:
    cache = pool(FP8)
    step_on(cache, 6).write(0, torch.full((6, 2, 8), float("nan")), torch.full((6, 2, 8), 2.0))
    cache.zero([1])
    assert not cache.keys[0].float()[4:8].any() and cache.keys[0].float()[8:10].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_that_over_rounded_keys_and_values(dtype: torch.dtype) -> None:
    query, key, value = (torch.randn(6, heads, 8).to(dtype) for heads in (6, 2, 2))
    outputs = []
    for pool_type, states in ((FP8, (key, value)), (dtype, (key.to(FP8).to(dtype), value.to(FP8).to(dtype)))):
        step = step_on(pool(pool_type), 6)
        step.write(0, *states)
        outputs.append(step.attend(0, query, *states, scaling=0.3, window=None, softcap=None))
    assert outputs[0].dtype == dtype
    assert torch.equal(*outputs)


def saved(folder: Path) -> Path:
    tiny.tiny_model("llama").save_pretrained(folder)
    tiny.tiny_tokenizer().save_pretrained(folder)
    return folder


def test_the_engine_serves_with_weights_and_pool_in_fp8(tmp_path: Path) -> None:
    config = EngineConfig(
        device="cpu", dtype="float32", attention="reference", quantization="fp8", kv_dtype="fp8",
        block_size=4, num_blocks=40, max_batch_tokens=7,
    )  # fmt: skip
    engine = build_engine(RevisionSpec("tiny", saved(tmp_path), config))
    assert engine.card.kv_bytes == 40 * 4 * token_bytes(CONFIG, dtype=FP8)
    events: list[Event] = []
    sampling = Sampling(temperature=0.0, max_tokens=9, ignore_eos=True)
    prompt = tuple(tiny.prompt(21))
    engine.submit(GenerateRequest("r", "tiny", prompt, Owner("o", "s"), sampling), events.append)
    while engine.has_work:
        engine.step()
    assert sum(len(event.token_ids) for event in events if isinstance(event, Delta)) == 9


def test_where_it_cannot_be_loading_says_why(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    with pytest.raises(CannotLoad, match=r"kv_dtype is set to fp8.*attention=reference"):
        load_model(folder, EngineConfig(device="cpu", kv_dtype="fp8"))
    one_at_a_time = EngineConfig(device="cpu", attention="reference", kv_dtype="fp8", batching=False)
    with pytest.raises(CannotLoad, match=r"kv_dtype is set to fp8.*batching is off"):
        load_model(folder, one_at_a_time)
