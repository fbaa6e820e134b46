"""A load leaves torch as other threads know it, and its models are what transformers would make of them."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaModel, modeling_utils

from inference.config import EngineConfig
from inference.models.default_dtype import default_dtype, thread_local_default_dtype
from inference.models.loader import load_model
from tests.inference import tiny

HALF = [torch.bfloat16, torch.float16]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    tiny.tiny_model("llama").save_pretrained(tmp_path)
    tiny.tiny_tokenizer().save_pretrained(tmp_path)
    return tmp_path


@pytest.fixture
def elsewhere() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as thread:
        yield thread


def state_of_the_process() -> dict[str, Any]:
    """What belongs to all threads, as the one that asks sees it."""
    return {
        "default dtype": torch.get_default_dtype(),
        "dtype of a tensor": torch.empty(1).dtype,
        "dtype of a quotient": (torch.tensor([3]) / 2).dtype,
        "default device": torch.get_default_device(),
        "device of a tensor": torch.empty(1).device,
        "threads": torch.get_num_threads(),
        "random numbers": torch.get_rng_state().tolist(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "precision": torch.get_float32_matmul_precision(),
        "inference mode": torch.is_inference_mode_enabled(),
        "gradients": torch.is_grad_enabled(),
        "warnings": list(warnings.filters),
        "environment": dict(os.environ),
        "numpy's errors": np.geterr(),
    }


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_others_see_no_other_state_while_a_model_is_made(
    folder: Path, elsewhere: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    before = elsewhere.submit(state_of_the_process).result()
    seen: list[dict[str, Any]] = []
    make = LlamaModel.__init__

    def make_and_look(self: Any, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        seen.append(elsewhere.submit(state_of_the_process).result())
        assert torch.get_default_dtype() == getattr(torch, dtype), "transformers meant another one"

    monkeypatch.setattr(LlamaModel, "__init__", make_and_look)
    loaded = load_model(folder, EngineConfig(device="cpu", dtype=dtype))
    assert loaded.model.dtype == getattr(torch, dtype)
    assert seen == [before]
    assert elsewhere.submit(state_of_the_process).result() == before


@pytest.mark.parametrize("quantization", [None, "int8", "w8a8", "fp8"])
def test_nothing_stays_changed_after_a_load(folder: Path, quantization: str | None) -> None:
    before = state_of_the_process()
    load_model(folder, EngineConfig(device="cpu", dtype="bfloat16", quantization=quantization))
    assert state_of_the_process() == before


@pytest.mark.parametrize("dtype", HALF, ids=str)
@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_a_model_is_the_one_that_transformers_makes(name: str, dtype: torch.dtype, tmp_path: Path) -> None:
    tiny.tiny_model(name).save_pretrained(tmp_path)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    with thread_local_default_dtype():
        ours = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=dtype)
    found, wanted = (dict((*model.named_parameters(), *model.named_buffers())) for model in (ours, theirs))
    assert found.keys() == wanted.keys()
    for tensor_name, tensor in wanted.items():
        assert found[tensor_name].dtype == tensor.dtype, tensor_name
        assert torch.equal(found[tensor_name], tensor), tensor_name


def test_every_maker_of_tensors_follows_the_default() -> None:
    makers = {
        "floats": [
            lambda: torch.empty(2), lambda: torch.zeros(2), lambda: torch.ones(2), lambda: torch.eye(2),
            lambda: torch.rand(2), lambda: torch.randn(2), lambda: torch.linspace(0, 1, 3),
            lambda: torch.tensor([0.5, 1]), lambda: torch.full((2,), 0.5), lambda: torch.arange(0, 1, 0.25),
            lambda: torch.normal(0.0, 1.0, (2,)), lambda: torch.nn.Linear(2, 3).weight,
            lambda: torch.as_tensor(0.5), lambda: torch.empty(2, dtype=None),
        ],
        "others": [
            lambda: torch.arange(3), lambda: torch.tensor([1]), lambda: torch.full((2,), 3),
            lambda: torch.tensor(True),
            lambda: torch.ones(2, dtype=torch.float32), lambda: torch.tensor(np.ones(2, dtype=np.float32)),
            lambda: torch.as_tensor(torch.ones(2, dtype=torch.float32)), lambda: torch.randint(0, 5, (2,)),
        ],
    }  # fmt: skip
    with modeling_utils.local_torch_dtype(torch.float16):  # the whole process's: the oracle
        wanted = {kind: [make().dtype for make in those] for kind, those in makers.items()}
    with default_dtype(torch.float16):
        found = {kind: [make().dtype for make in those] for kind, those in makers.items()}
    assert found == wanted
    assert set(found["floats"]) == {torch.float16} and torch.float16 not in found["others"]
    assert torch.empty(1).dtype == torch.get_default_dtype() == torch.float32


def test_it_ends_with_an_error_as_well_and_takes_floats_alone() -> None:
    theirs, ask = modeling_utils.local_torch_dtype, torch.get_default_dtype
    with pytest.raises(KeyError), thread_local_default_dtype(), default_dtype(torch.bfloat16):
        raise KeyError
    assert modeling_utils.local_torch_dtype is theirs and torch.get_default_dtype is ask
    assert torch.empty(1).dtype == torch.float32
    with pytest.raises(ValueError, match="int8"), default_dtype(torch.int8):
        pass
