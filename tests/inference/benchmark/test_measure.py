"""What the benchmark reports is what happened, against lists and models small enough to count by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from inference.benchmark import arrivals, run, shapes
from inference.benchmark.ceilings import Ceilings, measure_ceilings
from inference.benchmark.measure import Meter, percentile
from inference.benchmark.peers.offline import PeerFailed, run_peer
from inference.benchmark.roofline import Roofline
from inference.benchmark.workloads import WORKLOADS, Item, fixed
from inference.config import EngineConfig, RevisionSpec
from inference.execution.build import assemble
from inference.protocol.events import Finish, FinishReason, Timings, Usage
from inference.scheduling.engine import Engine
from inference.scheduling.step_input import StepInput
from inference.scheduling.step_plan import ScheduledChunk, StepPlan
from tests.inference import tiny

SHAPE = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": False,
}
SLOW_COPIES = Ceilings(copy_bytes_per_second=1.0, flops_per_second=1e30, products="float32")
SLOW_PRODUCTS = Ceilings(copy_bytes_per_second=1e30, flops_per_second=1.0, products="float32")


@pytest.fixture(autouse=True)
def small_shape(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(shapes.SHAPES, "small", SHAPE)


def engine(**settings: Any) -> Engine:
    config = EngineConfig(device="cpu", dtype="float32", max_num_seqs=8, num_blocks=200, **settings)
    loaded = shapes.random_model("small", config, max_model_len=512)
    return assemble(loaded, RevisionSpec("small", Path(), config))


@pytest.fixture
def meter() -> Meter:
    return Meter(engine(prefix_caching=True), SLOW_COPIES)


def test_totals_latencies_and_stages_are_those_of_the_list(meter: Meter) -> None:
    found = meter.measure(fixed(3, 20, 5, vocab_size=320))
    assert (found["requests"], found["prompt_tokens"], found["output_tokens"]) == (3, 60, 15)
    assert found["steps"] == 5
    assert list(found["first_token_ms"]) == list(found["between_tokens_ms"]) == ["p50", "p90", "p99"]
    host = found["host_ms_per_step"]
    assert min(host["schedule"], host["run"], host["sample"], host["post"]) > 0
    assert host["wait"] == 0  # of a step that was launched: there is none on a CPU
    in_all = found["steps"] * sum(host.values()) / 1000
    assert in_all == pytest.approx(found["seconds"], rel=0.3, abs=0.01)


def test_no_run_finds_what_the_run_before_has_cached(meter: Meter) -> None:
    items = fixed(2, 48, 2, vocab_size=320)
    assert [meter.measure(items)["cached_tokens"] for _ in range(2)] == [0, 0]
    assert meter.measure([items[0], items[0]])["cached_tokens"] == 32  # within a run it does


def step(*, prompt: int, start: int, num_tokens: int) -> StepInput:
    sequence = tiny.sequence(range(prompt))
    return StepPlan((ScheduledChunk(sequence, start, num_tokens),)).input


def test_a_decode_step_reads_every_weight_but_the_embedding_and_all_keys_and_values() -> None:
    made = engine()
    roofline = Roofline(made, SLOW_COPIES)
    roofline.add(step(prompt=10, start=9, num_tokens=1))
    model = made.runner.loaded.model  # type: ignore[attr-defined]
    weights = sum(one.nbytes for one in model.parameters()) - model.get_input_embeddings().weight.nbytes
    keys_and_values = 2 * 2 * 2 * 8 * 4  # both, layers, heads, size of each, bytes
    assert roofline.seconds == pytest.approx(weights + keys_and_values * (10 + 1))


def test_a_chunk_of_prefill_multiplies_its_tokens_with_all_keys_before_and_needs_no_head() -> None:
    made = engine()
    roofline = Roofline(made, SLOW_PRODUCTS)
    roofline.add(step(prompt=40, start=10, num_tokens=20))
    layer = 32 * 32 * 2 + 32 * 16 * 2 + 3 * 32 * 64  # query and output, key and value, three of the MLP
    pairs = sum(range(11, 31))
    assert roofline.seconds == pytest.approx(2 * 2 * layer * 20 + 4 * 2 * 32 * pairs)
    without_head = roofline.seconds
    roofline.reset()
    roofline.add(step(prompt=30, start=10, num_tokens=20))
    assert roofline.seconds == pytest.approx(without_head + 2 * 32 * 320)


def test_ceilings_are_measured() -> None:
    found = measure_ceilings(torch.device("cpu"), torch.float32)
    assert 1e8 < found.copy_bytes_per_second < 1e13
    assert 1e8 < found.flops_per_second < 1e15


def test_percentiles_are_observations() -> None:
    assert [percentile([3.0, 1.0, 2.0], percent) for percent in (1, 50, 99)] == [1.0, 2.0, 3.0]


SMALL_LOOP = arrivals.Arrivals(
    num_streams=3,
    num_arrivals=8,
    long_every=4,
    num_prompt_tokens=16,
    num_long_tokens=200,
    least_output=8,
    most_output=20,
)


def test_long_prompts_arrive_while_the_others_decode(meter: Meter) -> None:
    items = SMALL_LOOP.items(320)
    assert [len(item.prompt) for item in items].count(200) == 2
    found = arrivals.measure_arrivals(meter, SMALL_LOOP)
    assert found["requests"] == len(items)
    assert found["output_tokens"] == sum(item.num_output_tokens for item in items)
    assert found["steady_gaps"] > 20
    assert found["steady_median_ms"] <= found["steady_p99_ms"] <= found["steady_max_ms"]
    assert found["long_first_token_ms"]["p50"] > 0


def finish(at: float, gaps: tuple[float, ...]) -> Finish:
    timings = Timings(first_token_seconds=0.5, inter_token_seconds=gaps, arrived_at=at)
    return Finish(FinishReason.LENGTH, Usage(), timings)


def test_times_of_tokens_are_put_together_from_arrival_first_token_and_gaps() -> None:
    assert arrivals.token_times(finish(10.0, (0.25, 1.0))) == [10.5, 10.75, 11.75]


def test_both_cache_modes_are_told_apart_and_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    item = Item(tuple(range(50, 114)), 2)
    monkeypatch.setitem(WORKLOADS, "same4", lambda _: [item] * 4)
    said: list[str] = []
    command = ["--shape", "small", "--dtype", "float32", "--workloads", "same4", "--repeats", "1"]
    report = run.main([*command, "--prefix-caching", "both", "--num-blocks", "100"], say=said.append)
    assert report["workloads"]["same4, cache off"][0]["cached_tokens"] == 0
    assert report["workloads"]["same4, cache on"][0]["cached_tokens"] == 3 * 48
    assert "ratio" in said[-1]


def test_an_unknown_list_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run.main(["--shape", "small", "--workloads", "chat1,chat2"])
    assert "there is no list 'chat2'" in capsys.readouterr().err


def options(*more: str) -> Any:
    return run.arguments(["--shape", "small", "--workloads", "chat1", "--max-model-len", "512", *more])


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PeerFailed, match="needs the package vllm, which this Python does not have"):
        run_peer("vllm", options("--peer", "vllm"), ["chat1"], dtype="float32")


def test_a_peer_that_dies_is_quoted() -> None:
    asked = options("--peer", "transformers", "--quantization", "int8")
    with pytest.raises(PeerFailed, match="leave out --quantization"):
        run_peer("transformers", asked, ["chat1"], dtype="float32")


@pytest.mark.slow
def test_transformers_runs_the_same_list_beside_ours(tmp_path: Path) -> None:
    tiny.tiny_model("llama").save_pretrained(tmp_path)
    tiny.tiny_tokenizer().save_pretrained(tmp_path)
    said: list[str] = []
    command = [str(tmp_path), "--workloads", "chat8", "--repeats", "1", "--dtype", "float32"]
    report = run.main([*command, "--num-blocks", "100", "--peer", "transformers"], say=said.append)
    (theirs,), (ours,) = report["peer"]["workloads"]["chat8"], report["workloads"]["chat8"]
    assert theirs["output_tokens"] == ours["output_tokens"] == 8 * 64
    assert theirs["prompt_tokens"] == ours["prompt_tokens"] == 8 * 48
    expected = ours["output_tokens_per_second"] / theirs["output_tokens_per_second"]
    assert said[-1].endswith(f"ratio {expected:.3f}")
