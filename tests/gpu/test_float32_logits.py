"""Logits that are not rounded to the dtype: by each kind of output layer, of one token and of many.

In a dry run products take the plain ways of the CPU.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig

from inference.checkpoints.model_folder import CannotLoad
from inference.config import EngineConfig
from inference.execution.build import runner_for
from inference.fused.gpu_products import Product, gpu_product, in_dtype
from inference.quantization.registry import quantize_loaded
from tests.gpu.device import DEVICE, needs_gpu, sized
from tests.inference import tiny

pytestmark = pytest.mark.gpu

CONFIG = LlamaConfig(
    vocab_size=sized(6000, dry=320),
    hidden_size=sized(1024, dry=256),
    intermediate_size=256,
    num_hidden_layers=1,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=64,
)
KINDS = (None, "int8", "int4", "w8a8", "fp8")
EXACT = (None, "int8")  # which round nothing but the sums
ROUNDING = 2**-8  # of bfloat16, relative
# A sum's own error, relative to the largest: float32 products added up in any order, scales in their dtype.
FLOAT32 = 1e-4


def head_of(kind: str | None, *, has_bias: bool = False) -> Any:
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(CONFIG, dtype=torch.bfloat16).to(DEVICE)
    model.lm_head.weight.data.normal_(0, 0.1)
    if has_bias:
        bias = torch.randn(CONFIG.vocab_size, dtype=torch.bfloat16, device=DEVICE)
        model.lm_head.bias = torch.nn.Parameter(bias)
    if kind is not None:
        quantize_loaded(model, kind, quantize_head=True)
    return model.lm_head


def is_unrounded(logits: Tensor) -> bool:
    """Few numbers of float32 are numbers of bfloat16 as well."""
    return bool((logits != logits.bfloat16().float()).float().mean() > 0.9)


def rows(num_rows: int) -> Tensor:
    return torch.randn(num_rows, CONFIG.hidden_size, dtype=torch.bfloat16, device=DEVICE)


@torch.inference_mode()
@pytest.mark.parametrize("num_rows", [0, 1, 2, 33, sized(500, dry=80)])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_those_of_the_rounded_product_unrounded(
    kind: str | None, has_bias: bool, num_rows: int
) -> None:
    layer = head_of(kind, has_bias=has_bias)
    narrow, wide = gpu_product([layer]), in_dtype(gpu_product([layer]), torch.float32)
    x = rows(num_rows)
    before, after = narrow(x), wide(x)
    assert (before.dtype, after.dtype) == (torch.bfloat16, torch.float32)
    assert after.shape == (num_rows, CONFIG.vocab_size)
    if not num_rows:
        return
    largest = float(after.abs().max())
    assert float((before.float() - after).abs().max()) <= 2 * ROUNDING * largest
    assert is_unrounded(after)
    assert layer(x).dtype == torch.bfloat16  # the model's own layer is as it was
    if kind in EXACT:
        exact = x.double() @ (layer.weight if kind is None else layer.exact_weight()).double().T
        exact = exact if layer.bias is None else exact + layer.bias.double()
        assert float((after.double() - exact).abs().max()) < FLOAT32 * largest


@needs_gpu
@torch.inference_mode()
@pytest.mark.parametrize("has_bias", [False, True])
def test_one_token(has_bias: bool) -> None:
    from inference.kernels.single_token import Norm, single_token_product

    layer, x = head_of(None, has_bias=has_bias), rows(1)
    exact = x.double() @ layer.weight.double().T
    exact = exact if layer.bias is None else exact + layer.bias.double()
    found = single_token_product(x, layer.weight, layer.bias, out_dtype=torch.float32)
    assert found.dtype == torch.float32 and is_unrounded(found)
    assert float((found.double() - exact).abs().max() / exact.abs().max()) < FLOAT32
    norm = Norm(torch.ones(CONFIG.hidden_size, dtype=torch.bfloat16, device=DEVICE), 1e-5)
    normed = single_token_product(x, layer.weight, layer.bias, norm=norm, out_dtype=torch.float32)
    rounded = single_token_product(x, layer.weight, layer.bias, norm=norm)
    assert is_unrounded(normed) and torch.equal(normed.bfloat16(), rounded)


@needs_gpu
@torch.inference_mode()
def test_invariant_rows() -> None:
    from inference.fused.batch_invariant import InvariantProductFactory

    wide: Product = in_dtype(InvariantProductFactory()([head_of(None)]), torch.float32)
    x = rows(70)
    all_at_once = wide(x)
    assert is_unrounded(all_at_once)
    assert torch.equal(torch.cat([wide(row[None]) for row in x]), all_at_once)


def test_it_is_refused_where_nothing_is_fused() -> None:
    model = tiny.tiny_model("llama")
    loaded = replace(tiny.loaded(model, attention="reference"), device=torch.device("cuda"))
    with pytest.raises(CannotLoad, match="float32_logits"):
        runner_for(loaded, EngineConfig(device="cuda", float32_logits=True), num_blocks=8)
