"""Advice about settings: what they come to for a model on a device, and what cannot be."""

from __future__ import annotations

from typing import Any

import pytest

from console.deployments.settings_advice import Advice, Plan, advise
from inference.config import EngineConfig
from inference.kv_pool_size import Pool
from inference.protocol.stats import Device

GB = 10**9
CONTEXT = 8192
PLAIN_CPU = Device("cpu", "float32", total_bytes=16 * GB, free_bytes=10 * GB)
COMPILING_CPU = Device("cpu", "float32", 16 * GB, 10 * GB, keeps_bfloat16=True)
GPU = Device("cuda", "bfloat16", total_bytes=140 * GB, free_bytes=130 * GB)


def advice(
    on: Device = PLAIN_CPU, *, facts: dict[str, Any] | None = None, budget: int = 6 * GB, **engine: Any
) -> dict[str, Advice]:
    """Of a model whose weights take half a gigabyte and a token of it 46,080 bytes."""
    config = EngineConfig(**engine)
    pool = Pool(46_080, config.block_size, config.max_model_len or CONTEXT, config.max_num_seqs, on == GPU)
    known = {"max_model_len": CONTEXT} | (facts or {})
    return advise(Plan(config, known, on, 500_000_000, pool, most_bytes=budget // 2, budget_bytes=budget))


@pytest.mark.parametrize("device", [PLAIN_CPU, COMPILING_CPU, GPU], ids=["plain CPU", "compiling CPU", "GPU"])
def test_the_defaults_are_sound_on_every_device_and_every_field_has_a_sentence(device: Device) -> None:
    given = advice(device)
    assert {name: one for name, one in given.items() if one.kind} == {}
    assert all(one.text.strip() for one in given.values())


@pytest.mark.parametrize(
    ("device", "dtype", "kind", "words"),
    [
        (PLAIN_CPU, "bfloat16", "", "instructions"),
        (COMPILING_CPU, "bfloat16", "warn", "compiled layers"),
        (PLAIN_CPU, "float32", "", "Rounds least"),
        (PLAIN_CPU, "float16", "warn", "slow in float16"),
        (PLAIN_CPU, "auto", "", "measured"),
        (GPU, "float32", "warn", "Twice the memory"),
        (GPU, "auto", "", "bfloat16"),
    ],
)
def test_a_dtype_is_judged_by_the_device(device: Device, dtype: str, kind: str, words: str) -> None:
    given = advice(device, dtype=dtype, facts={"architecture": "LlamaForCausalLM"})["dtype"]
    assert given.kind == kind and words in given.text


def test_blocks_are_told_as_tokens_bytes_and_chats() -> None:
    text = advice(num_blocks=2048)["num_blocks"].text
    assert "32,768 tokens" in text and "1.4" in text and "8 chats of 4,096" in text
    assert advice(num_blocks=512, max_model_len=4096)["num_blocks"].text.count("2 chats") == 1


def test_what_the_engine_will_plan_is_told_too() -> None:
    text = advice()["num_blocks"].text
    assert "Planned at load" in text and "32,768 tokens" in text


@pytest.mark.parametrize(
    ("field", "wish"),
    [
        ("device", {"device": "cuda"}),
        ("attention", {"attention": "cpu", "on": GPU}),
        ("quantization", {"quantization": "int8", "facts": {"quantization": "pilothouse_int8"}}),
        ("quantization", {"quantization": "int8", "facts": {"architecture": "MixtralForCausalLM"}}),
        ("num_blocks", {"num_blocks": 15}),
        ("num_blocks", {"budget": 1_000_100_000}),
        ("max_model_len", {"max_model_len": CONTEXT + 1}),
        ("kv_dtype", {"kv_dtype": "fp8"}),
        ("num_draft_tokens", {"num_draft_tokens": 4, "batch_invariant": True}),
        ("num_draft_tokens", {"num_draft_tokens": 4, "batching": False}),
        (
            "num_draft_tokens",
            {"num_draft_tokens": 4, "batch_invariant": True, "attention": "reference", "on": GPU},
        ),
        ("memory", {"num_blocks": 20_000}),
        ("memory", {"budget": 400_000_000}),
    ],
)
def test_what_cannot_be_is_refused_at_its_field(field: str, wish: dict[str, Any]) -> None:
    given = advice(**wish)
    assert field in {name for name, one in given.items() if one.kind == "bad"}


@pytest.mark.parametrize(
    ("field", "wish"),
    [
        ("num_blocks", {"num_blocks": 16}),  # less than a context
        ("max_batch_tokens", {"max_batch_tokens": 4096}),
        ("max_batch_tokens", {"max_batch_tokens": 64}),
        ("max_num_seqs", {"max_num_seqs": 4096}),
        ("batching", {"batching": False}),
        ("prefix_caching", {"prefix_caching": False}),
        ("quantization", {"quantization": "int8"}),
        ("attention", {"attention": "reference"}),
        ("kv_dtype", {"kv_dtype": "fp8", "attention": "reference"}),
        ("kv_dtype", {"kv_dtype": "fp8", "on": GPU}),
        ("batch_invariant", {"batch_invariant": True}),
        ("batch_invariant", {"batch_invariant": True, "num_draft_tokens": 4, "on": GPU}),
    ],
)
def test_what_costs_something_is_said_and_allowed(field: str, wish: dict[str, Any]) -> None:
    given = advice(**wish)
    assert given[field].kind == "warn"
    assert "bad" not in {one.kind for one in given.values()}


def test_without_batching_what_is_not_used_says_so() -> None:
    given = advice(batching=False, num_blocks=64)
    for name in (
        "num_blocks", "max_batch_tokens", "max_num_seqs", "prefix_caching", "attention", "kv_dtype",
        "batch_invariant",
    ):  # fmt: skip
        assert given[name].text.startswith("Not used")


def test_a_model_that_says_little_of_itself_gets_advice_all_the_same() -> None:
    plan = Plan(EngineConfig(), {}, PLAIN_CPU, 0, None, most_bytes=3 * GB, budget_bytes=6 * GB)
    assert all(one.text and one.kind != "bad" for one in advise(plan).values())


@pytest.mark.parametrize(
    ("architecture", "kind", "words"),
    [
        ("Gemma3ForCausalLM", "", "share every step"),
        ("GPT2LMHeadModel", "warn", "GPT2LMHeadModel does not run"),
    ],
)
def test_whether_requests_share_steps_depends_on_the_architecture(
    architecture: str, kind: str, words: str
) -> None:
    given = advice(facts={"architecture": architecture})["batching"]
    assert given.kind == kind and words in given.text
