"""Products with int8 and int4 weights against plain torch, on fresh random inputs, and engines using them."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from inference.config import EngineConfig, RevisionSpec
from inference.execution.build import build_engine
from inference.kernels.rows import QuantizedRows, quantize_rows
from inference.kernels.tilings import CLASSES, TILINGS, Kind, Tiling, processor_of
from inference.models.loader import load_model
from inference.protocol.events import Delta, Event
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from inference.quantization import int4, int8
from inference.quantization.linear import QuantizedLinear
from tests.gpu.device import DEVICE, IS_DRY_RUN, needs_gpu, sized
from tests.inference import tiny
from tests.inference.quantization.wide import wide_folder

pytestmark = pytest.mark.gpu
ROUNDING = {
    torch.bfloat16: 4e-3,
    torch.float16: 6e-4,
}  # of the result and, where it comes to that, of weights
SHAPES = [(320, 512), (200, 1664), (70, 256)]  # outputs, inputs: no multiples of most tiles


@pytest.fixture(autouse=True)
def seed() -> int:
    drawn = secrets.randbits(31)
    print(f"seed {drawn}")
    torch.manual_seed(drawn)
    torch.backends.cuda.matmul.allow_tf32 = False
    return drawn


class Quantized:
    """A random weight in one of the kinds, with what it stands for."""

    def __init__(self, kind: Kind, num_outputs: int, num_inputs: int) -> None:
        weight = torch.randn(num_outputs, num_inputs, device=DEVICE)
        self.kind = kind
        method: Any = int4 if kind == "int4" else int8
        self.weight, self.scale = method.quantize(weight)
        self.exact = method.dequantize(self.weight, self.scale).double()

    def x(self, num_tokens: int, dtype: torch.dtype) -> Any:
        x = torch.randn(num_tokens, self.exact.shape[1], device=DEVICE, dtype=dtype)
        return quantize_rows(x, torch.int8) if self.kind == "w8a8" else x

    def tiled(self, x: Any, tiling: Tiling, bias: Tensor | None = None) -> Tensor:
        from inference.kernels.weight_only import int4_product, int8_product

        product: Any = int4_product if self.kind == "int4" else int8_product
        return product(x, self.weight, self.scale, bias, tiling)

    def served(self, x: Any) -> Tensor:
        from inference.quantization import weight_only_cuda as kernels

        multiply: dict[str, Any] = {
            "int8": kernels.multiply_int8,
            "int4": kernels.multiply_int4,
            "w8a8": kernels.multiply_int8_rows,
        }
        return multiply[self.kind](x, self.weight, self.scale)

    def expected(self, x: Any, bias: Tensor | None = None) -> Tensor:
        rows = x.exact() if isinstance(x, QuantizedRows) else x
        product = rows.double() @ self.exact.T
        return product if bias is None else product + bias.double()


def relative(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact.double()).norm() / exact.double().norm())


def cases() -> list[tuple[Kind, int, Tiling]]:
    """Every tiling of the tables, with a number of tokens that does not fill it."""
    wanted = {(kind, upper, tiling) for (kind, upper), both in TILINGS.items() for tiling in both}
    return sorted(wanted, key=str)


@needs_gpu
@pytest.mark.parametrize(("kind", "upper", "tiling"), cases(), ids=str)
@pytest.mark.parametrize("dtype", ROUNDING)
def test_every_tiling_gives_the_product(kind: Kind, upper: int, tiling: Tiling, dtype: torch.dtype) -> None:
    processor = processor_of(torch.device("cuda", torch.cuda.current_device()))
    for num_outputs, num_inputs in SHAPES:
        quantized = Quantized(kind, num_outputs, num_inputs)
        x = quantized.x(max(1, upper - 3), dtype)
        bias = torch.randn(num_outputs, device=DEVICE, dtype=dtype)
        fitting = tiling.fitting(kind, processor)
        for splits in {1, 3, fitting.splits or 1}:
            split = Tiling(**{name: getattr(fitting, name) for name in Tiling.__slots__} | {"splits": splits})
            got = quantized.tiled(x, split, bias)
            assert got.dtype == dtype
            assert relative(got, quantized.expected(x, bias)) < ROUNDING[dtype], (num_outputs, splits)


@needs_gpu
@pytest.mark.parametrize("kind", ["int8", "int4", "w8a8"])
@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("num_tokens", [1, 2, 7, 16, 33, 64, 100, 256, 300, 500, 2000])
def test_what_is_served_is_the_product(kind: Kind, dtype: torch.dtype, num_tokens: int) -> None:
    for num_outputs, num_inputs in SHAPES:
        quantized = Quantized(kind, num_outputs, num_inputs)
        x = quantized.x(num_tokens, dtype)
        assert relative(quantized.served(x), quantized.expected(x)) < ROUNDING[dtype]


@needs_gpu
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_many_outputs_are_multiplied_in_parts(kind: Kind, monkeypatch: pytest.MonkeyPatch) -> None:
    from inference.quantization import weight_only_cuda

    monkeypatch.setattr(weight_only_cuda, "SCRATCH_BYTES", 2 * 512 * 96)
    quantized = Quantized(kind, 320, 512)
    x = quantized.x(1000, torch.bfloat16)
    assert relative(quantized.served(x), quantized.expected(x)) < ROUNDING[torch.bfloat16]


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_floats_are_what_the_weights_stand_for(dtype: torch.dtype) -> None:
    from inference.kernels.dequantize import int4_floats, int8_floats

    for num_outputs, num_inputs in SHAPES:
        for kind, floats in (("int8", int8_floats), ("int4", int4_floats)):
            quantized = Quantized(kind, num_outputs, num_inputs)  # type: ignore[arg-type]
            got = floats(quantized.weight, quantized.scale, dtype)
            assert torch.equal(got, quantized.exact.to(torch.float32).to(dtype)), (kind, dtype)


@needs_gpu
@pytest.mark.parametrize("kind", ["int8", "int4", "w8a8"])
def test_two_runs_give_the_same_bits_however_the_sum_is_split(kind: Kind) -> None:
    from inference.kernels.weight_only import _counters

    quantized = Quantized(kind, 4096, 4096)
    for upper in CLASSES:
        x = quantized.x(upper, torch.bfloat16)
        tiling = TILINGS[kind, upper][0]
        split = Tiling(**{name: getattr(tiling, name) for name in Tiling.__slots__} | {"splits": 4})
        split = split.fitting(kind, processor_of(quantized.weight.device))
        first = quantized.tiled(x, split)
        assert all(torch.equal(quantized.tiled(x, split), first) for _ in range(20)), upper
        assert relative(first, quantized.expected(x)) < ROUNDING[torch.bfloat16]
    assert not _counters(quantized.weight.device).any()  # or the next product would wait for nobody


@needs_gpu
@pytest.mark.parametrize("kind", ["int8", "int4"])
def test_a_graph_replays_the_product_with_new_tokens(kind: Kind) -> None:
    quantized = Quantized(kind, 4096, 4096)
    for num_tokens in (1, 16, 200):
        x = quantized.x(num_tokens, torch.bfloat16)
        quantized.served(x)
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            got = quantized.served(x)
        for _ in range(3):
            x.copy_(torch.randn_like(x))
            graph.replay()
            assert torch.equal(got, quantized.served(x))


PROMPTS = [tiny.prompt(length) for length in (30, 1, 11, 120, 30)]
NUM_TOKENS = 24
# Gaps between logits, of their spread, that rounding may close; CPUs choose among several ways to multiply.
FAR = sized({"int8": 0.2, "int4": 0.2, "w8a8": 0.6}, dry={"int8": 0.6, "int4": 0.6, "w8a8": 0.8})


def outputs_of(folder: Path, *, one_by_one: bool = False, **settings: Any) -> list[list[int]]:
    engine = build_engine(
        RevisionSpec("wide", folder, EngineConfig(device=DEVICE, num_blocks=200, **settings))
    )
    events: list[list[Event]] = [[] for _ in PROMPTS]
    sampling = Sampling(temperature=0.0, max_tokens=NUM_TOKENS, ignore_eos=True)
    for index, prompt in enumerate(PROMPTS):
        request = GenerateRequest(str(index), "wide", tuple(prompt), Owner(id="o", salt="s"), sampling)
        engine.submit(request, events[index].append)
        while one_by_one and engine.has_work:
            engine.step()
    while engine.has_work:
        engine.step()
    return [
        [token_id for event in own if isinstance(event, Delta) for token_id in event.token_ids]
        for own in events
    ]


@torch.inference_mode()
def gaps(model: Any, outputs: list[list[int]]) -> list[float]:
    """How far below the model's own choice each token lies that was chosen, in spreads of the logits."""
    found = []
    for prompt, output in zip(PROMPTS, outputs, strict=True):
        logits = (
            model(torch.tensor([prompt + output], device=DEVICE)).logits[0, len(prompt) - 1 : -1].double()
        )
        chosen = logits.gather(1, torch.tensor(output, device=DEVICE)[:, None])[:, 0]
        found += ((logits.max(dim=1).values - chosen) / logits.std(dim=1)).tolist()
    return found


def quantized_folder(folder: Path, target: Path, method: Any) -> Path:
    """Quantized once, from float32: what is compared must be of the same numbers."""
    config = EngineConfig(
        device=DEVICE, dtype="float32", quantization=method, batching=False, fused_layers=False
    )
    made = load_model(folder, config)
    made.model.save_pretrained(target)
    made.tokenizer.save_pretrained(target)
    return target


@pytest.mark.parametrize("method", ["int8", "int4", "w8a8"])
@pytest.mark.parametrize("name", ["llama", "qwen2"])
@pytest.mark.parametrize("one_by_one", [False, True])
def test_an_engine_with_all_fast_paths_chooses_as_the_dequantized_model(
    tmp_path: Path, method: str, name: str, one_by_one: bool
) -> None:
    folder = quantized_folder(wide_folder(tmp_path / "exact", name), tmp_path / "quantized", method)
    outputs = outputs_of(folder, one_by_one=one_by_one, dtype="bfloat16")
    as_transformers_calls_it = EngineConfig(
        device=DEVICE, dtype="float32", batching=False, fused_layers=False
    )
    exact = load_model(folder, as_transformers_calls_it).model
    layers = [module for module in exact.modules() if isinstance(module, QuantizedLinear)]
    assert len(layers) == 3 * 7
    found = gaps(exact, outputs)
    assert len(found) == NUM_TOKENS * len(PROMPTS)
    assert max(found) < FAR[method]
    wrong = [[(token_id + 1) % 250 for token_id in output] for output in outputs]
    assert sum(gaps(exact, wrong)) / len(found) > 1  # what is compared does tell tokens apart


@pytest.mark.parametrize("method", ["int8", "int4"])
def test_float32_is_served_by_the_reference(tmp_path: Path, method: str) -> None:
    folder = wide_folder(tmp_path)
    outputs = outputs_of(folder, dtype="float32", quantization=method)
    plain = outputs_of(folder, dtype="float32", quantization=method, attention="reference")
    assert outputs == plain


@pytest.mark.parametrize("method", ["int8", "int4", "w8a8"])
def test_weights_are_the_same_after_saving_and_loading(tmp_path: Path, method: str) -> None:
    folder = wide_folder(tmp_path / "exact")
    # On a CPU fused int4 lies in memory as its layers read it, which is not how it is saved.
    config = EngineConfig(
        device=DEVICE,
        dtype="bfloat16",
        quantization=method,
        fused_layers=not IS_DRY_RUN,  # type: ignore[arg-type]
    )
    on_load = load_model(folder, config)
    on_load.model.save_pretrained(tmp_path / "quantized")
    on_load.tokenizer.save_pretrained(tmp_path / "quantized")
    reloaded = load_model(
        tmp_path / "quantized", EngineConfig(device=DEVICE, dtype="bfloat16", fused_layers=not IS_DRY_RUN)
    )
    for name, tensor in on_load.model.state_dict().items():
        assert torch.equal(tensor, reloaded.model.state_dict()[name]), name
