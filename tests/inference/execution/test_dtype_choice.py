"""The dtype of a CPU is chosen by steps of the model itself, on machines not seen yet as well."""

from __future__ import annotations

import json
import logging
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from inference.config import EngineConfig, RevisionSpec
from inference.execution import decode_probe, dtype_choice, kept_choices
from inference.execution.build import build_engine
from inference.execution.decode_probe import Probe, TooLarge, read_as
from inference.execution.dtype_choice import MAX_TURNS, MIN_TURNS, ROWS, choose, decide, described, measure
from inference.execution.runner import ModelRunner
from inference.models.device import DTYPES
from tests.inference import tiny

CPU = EngineConfig(device="cpu")
# Seconds of a step of 1 and of 8 rows. "compiled": float32 beside weights of 16 bits.
MACHINES: dict[str, tuple[dict[str, tuple[float, float]], str]] = {
    "AVX2, compiled": ({"float32": (0.020, 0.040), "bfloat16": (0.170, 0.330)}, "float32"),
    "AVX2, torch alone": ({"float32": (0.045, 0.099), "bfloat16": (0.150, 0.310)}, "float32"),
    "VNNI, compiled int8": ({"float32": (0.010, 0.021), "bfloat16": (0.036, 0.038)}, "float32"),
    "BF16, compiled": ({"float32": (0.0156, 0.0204), "bfloat16": (0.0637, 0.0372)}, "float32"),
    "BF16, torch alone": ({"float32": (0.056, 0.091), "bfloat16": (0.040, 0.037)}, "bfloat16"),
    "AMX, compiled": ({"float32": (0.0196, 0.0317), "bfloat16": (0.0625, 0.0833)}, "float32"),
    "AMX, torch alone": ({"float32": (0.123, 0.260), "bfloat16": (0.070, 0.080)}, "bfloat16"),
    "AMX, a large model": ({"float32": (0.210, 0.900), "bfloat16": (0.200, 0.300)}, "bfloat16"),
    "better at one row, worse at eight": ({"float32": (0.02, 0.08), "bfloat16": (0.04, 0.04)}, "float32"),
    "hardly better": ({"float32": (0.100, 0.200), "bfloat16": (0.095, 0.180)}, "float32"),
    "no bfloat16": ({"float32": (0.020, 0.040)}, "float32"),
    "no float32": ({"bfloat16": (0.020, 0.040)}, "float32"),
    "none": ({}, "float32"),
    "a clock that stands": ({"float32": (0.020, 0.040), "bfloat16": (0.0, 0.0)}, "float32"),
    "figures that are none": ({"float32": (math.inf, 0.040), "bfloat16": (0.010, math.nan)}, "float32"),
}


@dataclass
class Clock:
    """Time that goes on when somebody works."""

    now: float = 0.0
    noise: random.Random | None = None

    def __call__(self) -> float:
        return self.now

    def work(self, seconds: float) -> None:
        """Other processes may take the core meanwhile, seldom less than nothing and sometimes for long."""
        noise = self.noise
        disturbed = noise is not None and noise.random() < 0.4
        self.now += seconds * (noise.uniform(1.2, 15) if noise and disturbed else 1.0)


@dataclass
class StubWay:
    """A way that takes so many seconds for a step of so many rows."""

    clock: Clock
    seconds: dict[int, float]
    calls: list[int] = field(default_factory=list)

    def run(self, num_rows: int) -> None:
        self.calls.append(num_rows)
        self.clock.work(self.seconds[num_rows])

    def run_head(self, num_rows: int) -> None:
        self.clock.work(self.seconds[num_rows] / 4)

    def whole(self, seconds: float, head_seconds: float) -> float:
        return seconds


class BrokenWay(StubWay):
    def run(self, num_rows: int) -> None:
        raise KeyError(torch.bfloat16)


def by_rows(figures: tuple[float, float]) -> dict[int, float]:
    return dict(zip(ROWS, figures, strict=True))


@pytest.mark.parametrize("machine", MACHINES)
def test_machines_that_were_never_seen(machine: str) -> None:
    figures, expected = MACHINES[machine]
    assert decide({name: by_rows(found) for name, found in figures.items()}) == expected


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize(
    "machine", ["AVX2, compiled", "BF16, compiled", "AMX, torch alone", "BF16, torch alone"]
)
def test_a_busy_machine_does_not_decide(machine: str, seed: int) -> None:
    figures, expected = MACHINES[machine]
    clock = Clock(noise=random.Random(seed))
    ways = {name: partial(StubWay, clock, by_rows(found)) for name, found in figures.items()}
    assert decide(measure(ways, ROWS, clock)) == expected


def test_measuring_is_bounded() -> None:
    """By turns on a fast machine, by time on a slow one, where each way still has its turns."""
    for seconds, turns in ((0.0001, MAX_TURNS), (5.0, MIN_TURNS)):
        clock = Clock()
        way = StubWay(clock, {1: seconds, 8: seconds})
        measure({"float32": lambda way=way: way}, ROWS, clock)  # type: ignore[misc]
        assert len(way.calls) == len(ROWS) * (turns + 1)  # the first is not measured: it may compile


def test_a_way_that_fails_is_left_out(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()

    def cannot_be_built() -> StubWay:
        raise RuntimeError("no such kernel")

    good = StubWay(clock, {1: 0.02, 8: 0.04})
    for bad in (cannot_be_built, lambda: BrokenWay(clock, {})):
        with caplog.at_level(logging.WARNING):
            times = measure({"float32": lambda: good, "bfloat16": bad}, ROWS, clock)
        assert set(times) == {"float32"} and decide(times) == "float32"
        assert described(times) == "not measured against another dtype"
    assert "bfloat16" in caplog.text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return saved(tmp_path / "model", "llama")


def saved(folder: Path, name: str) -> Path:
    model = AutoModelForCausalLM.from_config(tiny.CONFIGS[name], dtype=torch.bfloat16)
    model.save_pretrained(folder)
    tiny.tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """How often steps were measured, on a machine where bfloat16 is faster."""
    calls: list[str] = []

    def stub(ways: Any, rows: Any) -> dict[str, dict[int, float]]:
        calls.append("measured")
        return {name: dict.fromkeys(rows, 0.02 if name == "bfloat16" else 0.04) for name in ways}

    monkeypatch.setattr(dtype_choice, "measure", stub)
    yield calls


def test_a_choice_is_kept(folder: Path, measured: list[str]) -> None:
    first = choose(folder, CPU)
    assert first is not None and first.dtype == torch.bfloat16
    assert first.why == "measured steps of 1 and 8 rows: float32 40.0 and 40.0 ms, bfloat16 20.0 and 20.0 ms"
    assert choose(folder, CPU) == first
    assert len(measured) == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("processor", lambda: "another CPU"),
        ("_version", lambda package: "another version"),
        ("_code", lambda: "other code"),
    ],
)
def test_it_does_not_count_elsewhere(
    folder: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch, name: str, value: Any
) -> None:
    choose(folder, CPU)
    monkeypatch.setattr(kept_choices, name, value)
    choose(folder, CPU)
    assert len(measured) == 2


def test_it_does_not_count_for_other_threads_settings_or_shapes(
    folder: Path, measured: list[str], tmp_path: Path
) -> None:
    threads = torch.get_num_threads()
    try:
        for count in (1, 2):
            choose(folder, replace(CPU, num_threads=count))
    finally:
        torch.set_num_threads(threads)
    choose(folder, replace(CPU, num_threads=2, quantization="int8"))
    choose(folder, replace(CPU, num_threads=2, batching=False))
    choose(saved(tmp_path / "other", "qwen3"), replace(CPU, num_threads=2))
    torch.set_num_threads(threads)
    assert len(measured) == 5


@pytest.mark.parametrize("content", ["", "{", "[]", '{"conditions": {}, "seconds": {}}', "null"])
def test_what_is_kept_wrongly_is_measured_again(folder: Path, measured: list[str], content: str) -> None:
    choose(folder, CPU)
    kept = kept_choices.cache_folder()
    assert kept is not None
    (file,) = kept.glob("*.json")
    assert json.loads(file.read_text())["seconds"]["float32"] == {"1": 0.04, "8": 0.04}
    file.write_text(content)
    assert choose(folder, CPU) == choose(folder, CPU)
    assert len(measured) == 2


def test_where_nothing_can_be_kept_it_is_measured_each_time(
    folder: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for place in (None, tmp_path / "file" / "dtypes"):
        monkeypatch.setattr(kept_choices, "cache_folder", lambda place=place: place)
        choose(folder, CPU)
    assert len(measured) == 2


def test_old_figures_are_forgotten(measured: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept_choices, "MOST_KEPT", 3)
    for index in range(6):
        kept_choices.write({"index": index}, {"float32": {1: 0.1}})
    kept = kept_choices.cache_folder()
    assert kept is not None and len(list(kept.iterdir())) == 3


def test_a_dtype_that_was_asked_for_wins(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("nothing is to be measured")

    monkeypatch.setattr(dtype_choice, "measure", refuse)
    monkeypatch.setattr(dtype_choice, "Probe", refuse)
    for dtype in ("float32", "bfloat16"):
        assert choose(folder, replace(CPU, dtype=dtype)) is None
        card = build_engine(
            RevisionSpec("tiny", folder, replace(CPU, dtype=dtype, num_blocks=8)), lambda _: None
        ).card
        assert (card.dtype, card.why_dtype) == (dtype, "")


def test_what_was_chosen_is_served_and_told(folder: Path, measured: list[str]) -> None:
    stages: list[str] = []
    spec = RevisionSpec("tiny", folder, replace(CPU, num_blocks=8))
    card = build_engine(spec, lambda news: stages.append(news.stage)).card
    assert card.dtype == "bfloat16" and card.why_dtype.startswith(
        "measured steps of 1 and 8 rows: float32 40.0"
    )
    assert stages[0] == "measuring dtypes, once"
    stages.clear()
    build_engine(spec, lambda news: stages.append(news.stage))
    assert "measuring dtypes, once" not in stages


@pytest.mark.parametrize("name", tiny.CONFIGS)
def test_every_family_can_be_probed(name: str) -> None:
    config = tiny.CONFIGS[name]
    for dtype in (torch.float32, torch.bfloat16):
        for is_batched in (True, False):
            way = Probe(config, CPU, dtype, dtype, is_batched=is_batched)
            for num_rows in ROWS:
                way.run(num_rows)
                way.run_head(num_rows)
    assert torch.get_default_dtype() == torch.float32


@pytest.mark.parametrize("quantization", ["int8", "int4", "w8a8", "fp8"])
@pytest.mark.parametrize("quantize_head", [False, True])
def test_every_quantization_can_be_probed(quantization: Any, quantize_head: bool) -> None:
    config = tiny.CONFIGS["llama"].__class__(
        **(tiny.SHAPE | {"hidden_size": 64, "num_attention_heads": 4}), tie_word_embeddings=True
    )
    asked = replace(CPU, quantization=quantization, quantize_head=quantize_head)
    kept_as = torch.bfloat16 if quantization != "fp8" else torch.float32
    way = Probe(config, asked, torch.float32, kept_as, is_batched=True)
    for num_rows in ROWS:
        way.run(num_rows)
        way.run_head(num_rows)


def test_a_probe_is_compiled_where_the_model_would_be(tmp_path: Path) -> None:
    config = tiny.CONFIGS["llama"].__class__(
        **(tiny.SHAPE | {"hidden_size": 64, "num_attention_heads": 4}), architectures=["LlamaForCausalLM"]
    )
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(tmp_path)
    files = list(tmp_path.glob("*.safetensors"))
    kept_as = read_as(config, CPU, torch.float32, files, is_batched=True)
    way = Probe(config, CPU, torch.float32, kept_as, is_batched=True)
    served = build_engine(
        RevisionSpec("tiny", with_tokenizer(tmp_path), replace(CPU, dtype="float32", num_blocks=8)),
        lambda _: None,
    )
    assert isinstance(served.runner, ModelRunner)
    fused = served.runner._fused
    assert way._fused is not None and fused is not None
    assert (way._fused.compiled is None) == (fused.compiled is None)
    assert read_as(config, CPU, torch.bfloat16, files, is_batched=True) == torch.bfloat16
    assert (
        read_as(config, replace(CPU, fused_layers=False), torch.float32, files, is_batched=True)
        == torch.float32
    )


def with_tokenizer(folder: Path) -> Path:
    tiny.tiny_tokenizer().save_pretrained(folder)
    return folder


def test_a_few_layers_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny.CONFIGS["llama"].__class__(**(tiny.SHAPE | {"num_hidden_layers": 30, "vocab_size": 4000}))
    monkeypatch.setattr(decode_probe, "LEAST_WEIGHTS", 60_000)
    monkeypatch.setattr(decode_probe, "MOST_HEAD_WEIGHTS", 48_000)
    way = Probe(config, CPU, torch.float32, torch.float32, is_batched=True)
    assert way.whole(1.0, 0.25) == pytest.approx(0.75 * 30 / len(way._model.model.layers) + 0.25 * 4)
    assert 1 < len(way._model.model.layers) < 30
    assert config.num_hidden_layers == 30 and config.vocab_size == 4000


def test_a_model_too_large_to_measure_beside_itself_is_float32(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_probe, "free_host_bytes", lambda: 100_000)
    with pytest.raises(TooLarge):
        Probe(tiny.CONFIGS["llama"], CPU, DTYPES["float32"], torch.float32, is_batched=True)
    chosen = choose(folder, CPU)
    assert chosen is not None and chosen.dtype == torch.float32
