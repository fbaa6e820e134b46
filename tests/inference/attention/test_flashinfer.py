"""What FlashInfer is told of a step, by a stand-in that does what the package's documentation says."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from inference.attention.base import Layout, Stretch
from inference.attention.flashinfer import FlashInferSteps
from inference.attention.reference import ReferenceStep
from inference.checkpoints.model_folder import CannotLoad
from inference.config import EngineConfig
from inference.models.device import choose_attention

BLOCK_SIZE, NUM_BLOCKS, HEADS, KV_HEADS, DIM = 4, 40, 6, 2, 8
STRETCHES = [(6, 1), (0, 9), (12, 5), (0, 1), (3, 1), (0, 8)]  # cached before, new


class FakeWrapper:
    """Pages by request, queries packed, causal from the end, a window that counts what lies to the left."""

    num_plans = 0

    def __init__(self, workspace: Tensor, kv_layout: str) -> None:
        assert workspace.dtype == torch.uint8 and kv_layout == "NHD"

    def plan(
        self, qo_indptr: Tensor, kv_indptr: Tensor, indices: Tensor, last_page_len: Tensor, num_qo_heads: int,
        num_kv_heads: int, head_dim: int, page_size: int, **options: Any,
    ) -> None:  # fmt: skip
        assert (num_qo_heads, num_kv_heads, head_dim, page_size) == (HEADS, KV_HEADS, DIM, BLOCK_SIZE)
        assert all(t.dtype == torch.int32 for t in (qo_indptr, kv_indptr, indices, last_page_len))
        assert options["causal"] and options["q_data_type"] == options["kv_data_type"] == torch.float32
        self.planned = qo_indptr, kv_indptr, indices, last_page_len
        self.options = options
        FakeWrapper.num_plans += 1

    def run(self, query: Tensor, pools: tuple[Tensor, Tensor]) -> Tensor:
        qo_indptr, kv_indptr, indices, last_page_len = self.planned
        out = torch.empty_like(query)
        for index in range(len(last_page_len)):
            rows = slice(int(qo_indptr[index]), int(qo_indptr[index + 1]))
            pages = indices[kv_indptr[index] : kv_indptr[index + 1]].long()
            kv_len = (len(pages) - 1) * BLOCK_SIZE + int(last_page_len[index])
            keys, values = (
                pool[pages].flatten(0, 1)[:kv_len].repeat_interleave(HEADS // KV_HEADS, 1) for pool in pools
            )
            out[rows] = self._attend(query[rows], keys, values)
        return out

    def _attend(self, query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        scores = torch.einsum("qhd,khd->hqk", query, keys) * self.options["sm_scale"]
        if self.options["logits_soft_cap"]:
            scores = torch.tanh(scores / self.options["logits_soft_cap"]) * self.options["logits_soft_cap"]
        key = torch.arange(len(keys))
        own = key[len(keys) - len(query) :, None]
        seen = key <= own
        if self.options["window_left"] >= 0:
            seen &= key >= own - self.options["window_left"]
        return torch.einsum("hqk,khd->qhd", scores.masked_fill(~seen, float("-inf")).softmax(-1), values)


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> FlashInferSteps:
    package = SimpleNamespace(BatchPrefillWithPagedKVCacheWrapper=FakeWrapper)
    monkeypatch.setitem(sys.modules, "flashinfer", package)  # type: ignore[arg-type]
    return FlashInferSteps()


def layout() -> Layout:
    order = torch.randperm(NUM_BLOCKS).tolist()
    stretches, offset = list[Stretch](), 0
    for num_cached, num_new in STRETCHES:
        kv_len = num_cached + num_new
        table = [order.pop() for _ in range(-(-kv_len // BLOCK_SIZE) + 1)]  # one block more than is used
        stretches.append(Stretch(offset, num_new, kv_len, table))
        offset += num_new
    return Layout(stretches, torch.zeros(offset, dtype=torch.int64))


def test_it_gives_what_the_reference_gives(steps: FlashInferSteps) -> None:
    torch.manual_seed(0)
    pools = [torch.randn(NUM_BLOCKS * BLOCK_SIZE, KV_HEADS, DIM) for _ in range(4)]
    cache: Any = SimpleNamespace(
        keys=pools[:2], values=pools[2:], num_blocks=NUM_BLOCKS, block_size=BLOCK_SIZE
    )
    FakeWrapper.num_plans = 0
    for _ in range(2):  # steps one after the other, of layers of three kinds
        batch = layout()
        step, reference = steps(cache, batch), ReferenceStep(cache, batch)
        query = torch.randn(len(batch.slots), HEADS, DIM)
        key = torch.zeros(len(batch.slots), KV_HEADS, DIM)
        for layer in (0, 1):
            for window, softcap in ((None, None), (5, None), (None, 3.0)):
                options: dict[str, Any] = {"scaling": 0.4, "window": window, "softcap": softcap}
                found = step.attend(layer, query, key, key, **options)
                expected = reference.attend(layer, query, key, key, **options)
                torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert FakeWrapper.num_plans == 6, "layers of a kind share a step's plan"


def test_it_is_refused_where_it_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    config = EngineConfig(attention="flashinfer")
    with pytest.raises(CannotLoad, match="needs an NVIDIA GPU"):
        choose_attention(config, torch.device("cpu"))
    monkeypatch.setitem(sys.modules, "flashinfer", None)  # type: ignore[arg-type]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(CannotLoad, match="install flashinfer-python"):
        choose_attention(config, torch.device("cuda"))
    with pytest.raises(CannotLoad, match="16-bit"):
        choose_attention(EngineConfig(attention="flashinfer", dtype="float32"), torch.device("cuda"))
