"""Products of one token, and the model that is made of them, against plain torch on fresh random inputs."""

from __future__ import annotations

import secrets
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.inference import tiny

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]
DTYPE = torch.bfloat16
TOLERANCE = 4e-3  # bfloat16 has 8 bits


@pytest.fixture(autouse=True)
def seed() -> int:
    drawn = secrets.randbits(31)
    print(f"seed {drawn}")
    torch.manual_seed(drawn)
    return drawn


def rounded(x: Tensor) -> Tensor:
    return x.to(DTYPE).double()


@pytest.mark.parametrize(
    ("num_outputs", "num_inputs", "has_bias"), [(96, 1024, False), (66, 704, True), (4100, 4096, False)]
)
@pytest.mark.parametrize("around", ["nothing", "norm", "norm and gate", "residual"])
def test_a_product_with_all_that_goes_with_it(
    num_outputs: int, num_inputs: int, has_bias: bool, around: str
) -> None:
    from inference.kernels.single_token import Norm, one_token_product

    weight = (torch.randn(num_outputs, num_inputs, device="cuda") * 0.05).to(DTYPE)
    bias = torch.randn(num_outputs, device="cuda", dtype=DTYPE) if has_bias else None
    x = torch.randn(1, num_inputs, device="cuda", dtype=DTYPE)
    norm = Norm(torch.randn(num_inputs, device="cuda", dtype=DTYPE), 1e-5) if "norm" in around else None
    residual = torch.randn(1, num_outputs, device="cuda", dtype=DTYPE) if around == "residual" else None
    token = x.double()
    if norm:
        token = rounded(token * torch.rsqrt(token.square().mean() + norm.epsilon))
        token = rounded(token * norm.weight.double())
    expected = token @ weight.double().T + (0 if bias is None else bias.double())
    if "gate" in around:
        gate, up = rounded(expected).chunk(2, dim=-1)
        expected = gate * gate.sigmoid() * up
    if residual is not None:
        expected = rounded(expected) + residual.double()
    found = one_token_product(x, weight, bias, norm=norm, residual=residual, gates="gate" in around)
    assert found.dtype == DTYPE
    assert residual is None or found.data_ptr() == residual.data_ptr()
    assert ((found.double() - expected).norm() / expected.norm()).item() < TOLERANCE


def test_a_broken_activation_breaks_what_it_is_part_of() -> None:
    """The engine ends a request whose logits are no numbers: they must not become numbers on the way."""
    from inference.kernels.single_token import Norm, one_token_product

    weight = torch.randn(64, 256, device="cuda", dtype=DTYPE)
    norm = Norm(torch.ones(256, device="cuda", dtype=DTYPE), 1e-5)
    for broken in (float("nan"), float("inf")):
        x = torch.randn(1, 256, device="cuda", dtype=DTYPE)
        x[0, 77] = broken
        assert not one_token_product(x, weight).isfinite().any()
        assert not one_token_product(x, weight, norm=norm).isfinite().any()


def logits(fused: Any, ids: Tensor, pools: list[Tensor], *, one_by_one: bool) -> Tensor:
    """After each token: of all in one step, or of each in a step of its own."""
    from inference.attention.triton import PagedBatch, TritonStep
    from tests.gpu.test_kernels import Pool, batch_of, stretches

    config = fused.model.config
    group = config.num_attention_heads // config.num_key_value_heads
    cache = Pool(pools[0::2], pools[1::2], 64, 4)
    table = stretches([(1, len(ids))], 64, 4)[0].block_table
    positions = torch.arange(len(ids), device="cuda")
    slots = torch.tensor([table[p // 4] * 4 + p % 4 for p in range(len(ids))], device="cuda")
    found = []
    for first in range(0, len(ids), 1 if one_by_one else len(ids)):
        end = first + 1 if one_by_one else len(ids)
        part = replace(stretches([(end - first, end)], 64, 4)[0], block_table=table)
        batch: PagedBatch = batch_of([part], 4, group)
        batch.slots.copy_(slots[first:end])
        step = TritonStep(cache, batch)
        found.append(fused(ids[first:end], positions[first:end], logit_rows=None, step=step).float())
        nobody = torch.empty(0, dtype=torch.long, device="cuda")  # as in the middle of a prompt
        assert fused(ids[first:end], positions[first:end], logit_rows=nobody, step=step).shape[0] == 0
    return torch.cat(found)


@torch.inference_mode()
@pytest.mark.parametrize("name", tiny.LLAMA_LIKE)
def test_steps_of_one_token_have_the_logits_of_one_step_of_all(name: str) -> None:
    from inference.fused.gpu import FusedModel

    model = tiny.tiny_model(name).to("cuda", DTYPE)
    config = model.config
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    shape = (64 * 4, config.num_key_value_heads, dim)
    ids = torch.randint(0, 256, (40,), device="cuda")
    fused = FusedModel(model)
    assert fused._one_token is not None
    both = [
        logits(
            fused,
            ids,
            [torch.zeros(shape, device="cuda", dtype=DTYPE) for _ in range(2 * config.num_hidden_layers)],
            one_by_one=one_by_one,
        )
        for one_by_one in (False, True)
    ]
    assert ((both[0] - both[1]).norm() / both[0].norm()).item() < 6e-2
