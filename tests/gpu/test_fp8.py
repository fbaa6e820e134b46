"""FP8 on a GPU: every kernel against plain torch on fresh random inputs, then a model, then the engine."""

from __future__ import annotations

import secrets
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from inference.config import EngineConfig, RevisionSpec
from inference.execution.build import build_engine
from inference.execution.kv_cache import token_bytes
from inference.kernels.rows import QuantizedRows, quantize_rows, saturated
from inference.quantization.fp8 import DTYPE, LEAST_CAPABILITY, Fp8Linear, reference_product
from inference.quantization.registry import quantize_loaded
from tests.gpu.device import DEVICE, IS_DRY_RUN, needs_gpu
from tests.gpu.test_cuda import NUM_TOKENS, run
from tests.gpu.test_kernels import Pool, batch_of, pool, slices
from tests.inference import tiny

FAST_SUMS = 1.5e-2  # what Hopper's tensor cores lose while they add up 14336 products of fp8
LACKS_FP8 = not IS_DRY_RUN and torch.cuda.get_device_capability() < LEAST_CAPABILITY
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(LACKS_FP8, reason="needs an NVIDIA GPU with fp8")]

SHAPES = [
    (6144, 4096),
    (4096, 14336),
    (80, 48),
    (640, 320),
]  # [outputs, width]: of a large model, of tiny ones


@pytest.fixture(autouse=True)
def seed() -> int:
    drawn = secrets.randbits(31)
    print(f"seed {drawn}")
    torch.manual_seed(drawn)
    torch.backends.cuda.matmul.allow_tf32 = False
    return drawn


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def random_rows(num_rows: int, width: int, dtype: torch.dtype) -> Tensor:
    """Rows of very different sizes."""
    sizes = torch.logspace(-3, 2, num_rows, device=DEVICE)[:, None]
    return (torch.randn(num_rows, width, device=DEVICE) * sizes).to(dtype)


def assert_same_rows(found: QuantizedRows, expected: QuantizedRows) -> None:
    """But for numbers that lie between two steps, which two ways to divide may round differently."""
    torch.testing.assert_close(found.scale, expected.scale, rtol=0.01, atol=0)
    differing = (found.values.view(torch.uint8) != expected.values.view(torch.uint8)).float().mean()
    assert differing < 0.1  # of a row whose scale is rounded otherwise, one in twenty
    assert relative_error(found.exact(), expected.exact()) < 0.005
    assert found.dtype == expected.dtype


@needs_gpu
@pytest.mark.parametrize("kind", [DTYPE, torch.int8])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("num_rows", "width"), [(1, 4096), (33, 14336), (7, 48), (300, 576)])
def test_rows_are_made_as_the_reference_makes_them(
    kind: torch.dtype, dtype: torch.dtype, num_rows: int, width: int
) -> None:
    from inference.kernels import layer

    x, residual = random_rows(num_rows, width, dtype), random_rows(num_rows, width, dtype)
    weight = torch.rand(width, device=DEVICE).to(dtype)
    assert_same_rows(layer.quantize(x, kind), quantize_rows(x, kind))
    wide = torch.cat([x, residual], dim=1)
    assert_same_rows(layer.quantize(wide[:, :width], kind), quantize_rows(x, kind))  # rows with a stride
    assert_same_rows(layer.silu_mul_quantized(wide, kind), quantize_rows(layer.silu_mul(wide), kind))
    for adds in (False, True):
        first, second = residual.clone(), residual.clone()
        plain = layer.add_norm(x, first, weight, 1e-5, adds=adds)
        found = layer.add_norm_quantized(x, second, weight, 1e-5, adds=adds, dtype=kind)
        assert_same_rows(found, quantize_rows(plain, kind))
        assert torch.equal(first, second)


@needs_gpu
def test_a_row_of_zeros_stays_zero() -> None:
    from inference.kernels import layer

    assert not layer.quantize(torch.zeros(2, 64, device=DEVICE), DTYPE).exact().any()


@needs_gpu
@pytest.mark.parametrize(("num_outputs", "width"), SHAPES)
@pytest.mark.parametrize("num_rows", [1, 2, 16, 17, 40, 64, 65, 200, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_product_is_the_one_in_float64(
    num_rows: int, num_outputs: int, width: int, dtype: torch.dtype
) -> None:
    from inference.kernels import fp8

    weight = quantize_rows(torch.randn(num_outputs, width, device=DEVICE), DTYPE)
    rows = quantize_rows(random_rows(num_rows, width, dtype), DTYPE)
    counters = torch.zeros(fp8.num_counters(num_outputs), dtype=torch.int32, device=DEVICE)
    expected = rows.exact().double() @ weight.exact().double().T
    found = fp8.product(rows, weight.values, weight.scale, counters)
    again = fp8.product(rows, weight.values, weight.scale, counters)
    assert found.dtype == dtype and found.shape == (num_rows, num_outputs)
    difference = (found.double() - expected).norm(dim=1) / expected.norm(dim=1)  # rows differ in size
    assert difference.max() < FAST_SUMS
    assert torch.equal(found, again)  # the shares of a split product are added in one order
    assert not counters.any()


@needs_gpu
@pytest.mark.parametrize(("num_outputs", "width"), SHAPES)
@pytest.mark.parametrize("swaps", [True, False])
@pytest.mark.parametrize("splits", [1, 2, 4])
def test_every_cut_of_a_product_gives_the_same(
    num_outputs: int, width: int, swaps: bool, splits: int
) -> None:
    from inference.kernels import fp8

    weight = quantize_rows(torch.randn(num_outputs, width, device=DEVICE), DTYPE)
    rows = quantize_rows(torch.randn(70, width, device=DEVICE), DTYPE)
    expected = rows.exact().double() @ weight.exact().double().T
    tiles = fp8.Tiles(32, 64, 128, splits=splits, swaps=swaps)
    counters = torch.zeros(3 * fp8.num_counters(num_outputs), dtype=torch.int32, device=DEVICE)
    found = fp8.tiled_product(rows, weight.values, weight.scale, counters, tiles)
    assert relative_error(found, expected) < FAST_SUMS


@needs_gpu
@pytest.mark.parametrize(("num_outputs", "width"), SHAPES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_float_rows_lose_nothing(num_outputs: int, width: int, dtype: torch.dtype) -> None:
    from inference.kernels import fp8

    weight = quantize_rows(torch.randn(num_outputs, width, device=DEVICE), DTYPE)
    x = torch.randn(2, width, device=DEVICE).to(dtype)
    found = fp8.vector_product(x, weight.values, weight.scale)
    expected = x.double() @ weight.exact().double().T
    assert relative_error(found, expected) < (1e-5 if dtype == torch.float32 else 5e-3)


def layer_of(num_outputs: int, width: int, *, dtype: torch.dtype, bias: bool = False) -> Fp8Linear:
    exact = nn.Linear(width, num_outputs, bias=bias, device=DEVICE, dtype=dtype)
    layer = Fp8Linear.placeholder(exact, is_quantized=True, device=exact.weight.device)
    for name, tensor in Fp8Linear.quantize(exact.weight.detach()).items():
        layer.get_parameter(name).data = tensor
    if bias:
        layer.get_parameter("bias").data = exact.bias.detach()
    return layer


@needs_gpu
@torch.inference_mode()
@pytest.mark.parametrize("num_rows", [1, 5, 60, 300])
def test_a_layer_computes_the_reference_and_can_be_captured(num_rows: int) -> None:
    from inference.kernels.fp8 import VECTOR_ROWS

    layer = layer_of(640, 320, dtype=torch.bfloat16, bias=True)
    x = torch.randn(1, num_rows, 320, device=DEVICE, dtype=torch.bfloat16)
    taken = layer.activation_dtype(num_rows)
    assert taken == (None if num_rows <= VECTOR_ROWS else DTYPE)

    bias = layer.get_parameter("bias")

    def expected() -> Tensor:
        if taken is None:
            return x @ layer.exact_weight().T.to(x.dtype) + bias
        return reference_product(x, layer.weight, layer.weight_scale) + bias

    assert relative_error(layer(x), expected()) < 0.01
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = layer(x)
    for _ in range(3):
        x.normal_()
        graph.replay()
        assert relative_error(out, expected()) < 0.01


@needs_gpu
@pytest.mark.parametrize("is_rotated", [False, True])
def test_a_pool_in_fp8_saturates_and_keeps_a_nan(is_rotated: bool) -> None:
    from inference.kernels.layer import rotate_and_write, write_kv

    keys, values = (torch.zeros(64, 2, 128, device=DEVICE).to(DTYPE) for _ in range(2))
    slots = torch.tensor([5, 60, 0], dtype=torch.int32, device=DEVICE)
    key, value = (torch.randn(3, 2, 128, device=DEVICE, dtype=torch.bfloat16) * 300 for _ in range(2))
    key[0, 0, 3], value[1, 1, 7] = float("nan"), float("nan")
    key[1, 0, 4], value[2, 1, 9] = float("inf"), float("-inf")
    if is_rotated:  # by nothing
        query = torch.zeros(3, 4, 128, device=DEVICE, dtype=torch.bfloat16)
        states = torch.cat([query, key, value], dim=1).view(3, -1)
        cos = torch.ones(3, 128, device=DEVICE, dtype=torch.bfloat16)
        rotate_and_write(
            states, cos, cos * 0, keys=keys, values=values, slots=slots, num_heads=4
        )  # 0 x inf is a NaN: the pair of the infinite one is one, too
    else:
        write_kv(key, value, keys=keys, values=values, slots=slots)
    for found, given in ((keys, key), (values, value)):
        expected = saturated(given, DTYPE).float()
        written = found.float()[slots.long()]
        is_spoilt = torch.zeros_like(expected, dtype=torch.bool)
        if is_rotated and given is key:
            is_spoilt[0, 0, 3 + 64] = is_spoilt[1, 0, 4 + 64] = True
        torch.testing.assert_close(written[~is_spoilt], expected[~is_spoilt], rtol=0, atol=0, equal_nan=True)
        assert written[is_spoilt].isnan().all()
        assert written[~written.isnan()].abs().max() == 448
        assert written.isnan().sum() == 1 + int(is_spoilt.sum())
    assert not keys.float()[1:5].any()


def both_forwards(model: Any, pool_type: torch.dtype) -> tuple[Tensor, Tensor]:
    """Logits of three prompts: of the fused model in one batch, and of transformers' forward, one by one."""
    from inference.attention.triton import TritonAttention
    from inference.fused.gpu import GpuFusedModel

    config, lengths = model.config, [(50, 50), (3, 3), (21, 21)]
    ids = [torch.randint(0, 256, (n,), device=DEVICE) for n, _ in lengths]
    expected = torch.cat([model(one[None]).logits[0] for one in ids]).float()
    parts, kv_heads = slices(lengths, 64, 4), config.num_key_value_heads
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    pools = [pool(64, 4, kv_heads, dim, torch.float32) for _ in range(config.num_hidden_layers)]
    keys, values = ([getattr(one, name)[0].to(pool_type) for one in pools] for name in ("keys", "values"))
    batch = batch_of(parts, 4, config.num_attention_heads // kv_heads)
    slots = [part.block_table[p // 4] * 4 + p % 4 for part in parts for p in range(part.kv_len)]
    batch.slots.copy_(torch.tensor(slots))
    positions = torch.cat([torch.arange(n, device=DEVICE) for n, _ in lengths])
    attention = TritonAttention(Pool(keys, values, 64, 4), batch)
    return GpuFusedModel(model)(
        torch.cat(ids), positions, logit_rows=None, attention=attention
    ).float(), expected


@needs_gpu
@torch.inference_mode()
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float32, 0.05), (torch.bfloat16, 0.25)])
def test_a_fused_model_has_the_logits_of_the_unfused_one(
    name: str, dtype: torch.dtype, allowed: float
) -> None:
    """A rounding that falls the other way moves a number by a step of fp8: tiny models make much of it."""
    model = tiny.tiny_model(name).to(DEVICE, dtype)
    quantize_loaded(model, "fp8")
    found, expected = both_forwards(model, dtype)
    assert relative_error(found, expected) < allowed


@needs_gpu
@torch.inference_mode()
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_a_pool_in_fp8_costs_little(name: str) -> None:
    model = tiny.tiny_model(name).to(DEVICE)
    found, expected = both_forwards(model, DTYPE)
    assert 1e-4 < relative_error(found, expected) < 0.3


@torch.inference_mode()
def test_a_model_on_the_gpu_has_the_logits_of_the_reference_on_the_cpu() -> None:
    model = tiny.tiny_model("llama")
    quantize_loaded(model, "fp8")
    ids = torch.randint(0, 256, (1, 90))
    expected = model(ids).logits
    found = model.to(DEVICE)(ids.to(DEVICE)).logits.cpu()
    assert relative_error(found, expected) < 0.1


def saved(folder: Path) -> Path:
    tiny.tiny_model("llama").save_pretrained(folder)
    tiny.tiny_tokenizer().save_pretrained(folder)
    return folder


def outputs_of(folder: Path, **settings: Any) -> list[list[int]]:
    config = EngineConfig(device=DEVICE, dtype="float32", num_blocks=200, **settings)
    engine = build_engine(RevisionSpec("tiny", folder, config))
    if settings["kv_dtype"] == "fp8":
        size = token_bytes(tiny.CONFIGS["llama"], dtype=DTYPE)
        assert engine.card.kv_bytes in (200 * 16 * size, 201 * 16 * size)  # one block is for padding
    outputs, _ = run(engine, steps_between_arrivals=0)
    assert [len(output) for output in outputs] == [NUM_TOKENS] * len(outputs)
    return outputs


def agreement(one: list[list[int]], other: list[list[int]]) -> float:
    """For how long sequences are the same, on average: a token that differs changes all after it."""
    same = [
        sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(a, b, strict=True)))
        for a, b in zip(one, other, strict=True)
    ]
    return sum(same) / sum(map(len, one))


@pytest.mark.parametrize("kv_dtype", ["auto", "fp8"])
def test_the_engine_serves_fp8_by_graphs_as_without_them(tmp_path: Path, kv_dtype: str) -> None:
    folder = saved(tmp_path)
    settings: dict[str, Any] = {"quantization": "fp8", "kv_dtype": kv_dtype}
    if IS_DRY_RUN and kv_dtype == "fp8":
        settings["attention"] = "reference"  # alone reads such keys there
    graphs = outputs_of(folder, **settings)
    assert agreement(graphs, outputs_of(folder, **settings, overlap=False)) > 0.6
    assert agreement(graphs, outputs_of(folder, **settings, overlap=False, cuda_graphs=False)) > 0.6
    assert agreement(graphs, outputs_of(folder, **(settings | {"attention": "reference"}))) > 0.4


def test_a_quantized_folder_is_served_as_what_was_quantized_while_loading(tmp_path: Path) -> None:
    from inference.models.loader import load_model

    folder = saved(tmp_path / "exact")
    on_load = load_model(
        folder, EngineConfig(device=DEVICE, dtype="bfloat16", quantization="fp8", fused_layers=not IS_DRY_RUN)
    )
    on_load.model.save_pretrained(tmp_path / "fp8")
    on_load.tokenizer.save_pretrained(tmp_path / "fp8")
    again = load_model(
        tmp_path / "fp8", EngineConfig(device=DEVICE, dtype="bfloat16", fused_layers=not IS_DRY_RUN)
    )
    assert sum(isinstance(module, Fp8Linear) for module in again.model.modules()) == 21
    for name, tensor in on_load.model.state_dict().items():
        found = again.model.state_dict()[name]
        bits = [one.contiguous().view(torch.uint8) for one in (found, tensor)]
        assert found.dtype == tensor.dtype and torch.equal(*bits)
