"""The certificate's child: it measures what is served, says where it differs, and an oracle agrees."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from inference import corpus
from inference.certify import compare as certify
from inference.config import EngineConfig
from inference.convert.quantize import quantize_folder
from tests.inference.convert.hostile import model_folder
from tests.inference.tiny import tiny_model, tiny_tokenizer

FLOAT32 = json.dumps({"device": "cpu", "dtype": "float32", "num_threads": 1})
LAYER = "model.layers.1.mlp.up_proj"


@pytest.fixture(autouse=True)
def as_before() -> Iterator[None]:
    threads = torch.get_num_threads()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    torch.set_num_threads(threads)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(autouse=True)
def short_texts(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real lengths are for the real model."""
    if "model" not in request.keywords:
        monkeypatch.setattr(certify, "MAX_TEXT", 130)


@pytest.fixture(scope="module")
def exact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return model_folder(tmp_path_factory.mktemp("exact") / "model")


@pytest.fixture(scope="module")
def int8(exact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "model"
    folder.mkdir()
    quantize_folder(exact, folder, name="int8")
    return folder


Measure = Callable[..., dict[str, Any]]


@pytest.fixture
def measure(capsys: pytest.CaptureFixture[str]) -> Measure:
    """The child's main function in this process; what it said last."""

    def call(revision: Path, parent: Path, settings: str = FLOAT32, parent_settings: str = FLOAT32) -> Any:
        arguments = ["--revision-folder", revision, "--parent-folder", parent]
        arguments += ["--settings", settings, "--parent-settings", parent_settings]
        certify.main([str(argument) for argument in arguments])
        return json.loads(capsys.readouterr().out.splitlines()[-1])

    return call


def changed(folder: Path, target: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> Path:
    """A copy of a model whose tensors somebody has laid hands on."""
    shutil.copytree(folder, target)
    tensors = load_file(target / "model.safetensors")
    change(tensors)
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_a_model_does_not_differ_from_itself(exact: Path, measure: Measure) -> None:
    figures = measure(exact, exact)["figures"]
    assert figures["perplexity_ratio"] == pytest.approx(1, abs=1e-6)
    assert figures["top1_agreement"] == 1 and figures["num_broken"] == 0
    assert figures["kl_mean"] < 1e-9 and figures["worst_weight_error"] == 0
    assert figures["greedy_prefix"] == figures["greedy_tokens"] == 64
    assert figures["size_bytes"] == figures["parent_size_bytes"] > 0


@torch.no_grad()
def test_the_figures_are_those_of_an_independent_forward(exact: Path, int8: Path, measure: Measure) -> None:
    """transformers' own attention over whole texts, in one piece, without our pool and our chunks."""
    told = measure(int8, exact)
    figures = told["figures"]
    models = [AutoModelForCausalLM.from_pretrained(folder).eval() for folder in (exact, int8)]
    tokenizer = tiny_tokenizer()
    divergences, agreed, losses = [], [], []
    for text in corpus.texts().values():
        token_ids = torch.tensor(tokenizer.encode(text)[: certify.MAX_TEXT])
        parent, child = (model(token_ids[None]).logits[0].double().log_softmax(-1) for model in models)
        agreed += (parent.argmax(-1) == child.argmax(-1)).tolist()
        losses.append([F.nll_loss(found[:-1], token_ids[1:], reduction="sum") for found in (parent, child)])
        top = parent.topk(20).indices
        p, q = (
            torch.cat([kept := found.gather(-1, top).exp(), 1 - kept.sum(-1, keepdim=True)], dim=-1)
            for found in (parent, child)
        )
        divergences += (p * (p / q).log()).sum(-1).tolist()
    num_predicted = len(agreed) - len(losses)
    parent_perplexity, perplexity = (torch.tensor(losses).sum(0) / num_predicted).exp().tolist()
    assert figures["num_tokens"] == len(agreed)
    assert figures["parent_perplexity"] == pytest.approx(parent_perplexity, rel=1e-4)
    assert figures["perplexity"] == pytest.approx(perplexity, rel=1e-3)
    assert figures["top1_agreement"] == pytest.approx(sum(agreed) / len(agreed), abs=2e-3)
    assert figures["kl_mean"] == pytest.approx(sum(divergences) / len(divergences), rel=0.02)
    assert told["corpus_digest"] == corpus.digest()
    assert (told["measured_by"]["revision"]["attention"], told["measured_by"]["parent"]["dtype"]) == (
        "cpu",
        "float32",
    )


def test_small_chunks_change_no_figure(exact: Path, int8: Path, measure: Measure) -> None:
    small = json.dumps(json.loads(FLOAT32) | {"max_batch_tokens": 7, "block_size": 4})
    whole, pieces = measure(int8, exact)["figures"], measure(int8, exact, small, small)["figures"]
    for name in ("perplexity", "kl_mean", "kl_p99"):
        assert pieces[name] == pytest.approx(whole[name], rel=1e-2)


def test_a_model_that_is_served_one_request_at_a_time_is_measured_by_its_own_forward(
    exact: Path, measure: Measure
) -> None:
    alone = json.dumps(json.loads(FLOAT32) | {"batching": False})
    told = measure(exact, exact, alone)
    assert told["measured_by"]["revision"]["attention"] == "model"
    assert told["figures"]["top1_agreement"] > 0.999
    assert told["figures"]["kl_mean"] < 1e-6
    assert told["figures"]["greedy_prefix"] == 64


def test_settings_alone_can_be_measured(exact: Path, measure: Measure) -> None:
    on_load = json.dumps(json.loads(FLOAT32) | {"quantization": "int8"})
    told = measure(exact, exact, on_load)
    assert told["measured_by"]["revision"]["quantization"] == "pilothouse_int8"
    assert 0.002 < told["figures"]["worst_weight_error"] < 0.02
    assert told["figures"]["weight_bytes"] < told["figures"]["parent_weight_bytes"]


def zeroed(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{LAYER}.weight_scale"] *= 0


def stretched(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{LAYER}.weight_scale"] *= 1.5


def swapped(tensors: dict[str, torch.Tensor]) -> None:
    other = LAYER.replace("layers.1", "layers.2")
    for part in ("weight", "weight_scale"):
        one, two = f"{LAYER}.{part}", f"{other}.{part}"
        tensors[one], tensors[two] = tensors[two].clone(), tensors[one].clone()


@pytest.mark.parametrize(
    ("change", "error"), [(zeroed, 1.0), (stretched, 0.5), (swapped, 1.41)], ids=["zero", "x1.5", "swapped"]
)
def test_a_spoilt_layer_is_named(
    change: Any, error: float, exact: Path, int8: Path, tmp_path: Path, measure: Measure
) -> None:
    figures = measure(changed(int8, tmp_path / "spoilt", change), exact)["figures"]
    assert figures["worst_layer"] in (LAYER, LAYER.replace("layers.1", "layers.2"))
    assert figures["worst_weight_error"] == pytest.approx(error, rel=0.1)
    assert figures["kl_mean"] > 0.01


def test_logits_that_are_not_finite_are_counted_and_every_figure_is_a_number(
    exact: Path, int8: Path, tmp_path: Path, measure: Measure
) -> None:
    def broken(tensors: dict[str, torch.Tensor]) -> None:
        tensors["model.norm.weight"] *= float("nan")

    figures = measure(changed(int8, tmp_path / "broken", broken), exact)["figures"]
    assert figures["num_broken"] == figures["num_tokens"]
    json.dumps(figures["kl_mean"], allow_nan=False)
    json.dumps(figures["perplexity"], allow_nan=False)


def test_another_models_weights_are_far_away(exact: Path, tmp_path: Path, measure: Measure) -> None:
    tiny_model("llama", seed=7).save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    figures = measure(tmp_path, exact)["figures"]
    assert figures["top1_agreement"] < 0.1 and figures["kl_mean"] > 1 and figures["greedy_prefix"] < 5


def test_a_model_of_another_vocabulary_is_no_relative(exact: Path, tmp_path: Path, measure: Measure) -> None:
    model = tiny_model("llama")
    model.resize_token_embeddings(320)
    model.save_pretrained(tmp_path)
    tiny_tokenizer().save_pretrained(tmp_path)
    told = measure(tmp_path, exact)
    assert (told["event"], told["code"]) == ("error", "not_comparable") and "320" in told["message"]


def test_an_unsafe_folder_is_not_loaded(exact: Path, tmp_path: Path, measure: Measure) -> None:
    folder = shutil.copytree(exact, tmp_path / "unsafe")
    (folder / "model.safetensors").write_bytes(b"\x80\x04.")
    assert measure(folder, exact)["code"] == "unsafe_model"


@pytest.mark.parametrize("end", ["terminate", "parent"])
def test_the_child_ends_when_it_is_told_to_or_its_parent_is_gone(end: str, exact: Path) -> None:
    command = [sys.executable, "-m", "inference.certify.compare", "--with-parent"]
    command += ["--revision-folder", str(exact), "--parent-folder", str(exact)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        stages = (json.loads(line).get("stage") for line in process.stdout)
        assert "measuring the parent" in stages
        if end == "terminate":
            process.terminate()
        else:
            process.stdin.close()
        assert json.loads(process.stdout.read().splitlines()[-1]) == {"event": "cancelled"}
    assert process.returncode == 128 + signal.SIGTERM


def test_the_corpus_is_of_several_kinds_and_its_digest_sees_every_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert {"prose", "python", "dialogue", "table", "german", "chinese", "spanish", "arithmetic", "json"} <= (
        corpus.texts().keys()
    )
    before = corpus.digest()
    monkeypatch.setattr(corpus, "FOLDER", shutil.copytree(corpus.FOLDER, tmp_path / "corpus"))
    assert corpus.digest() == before
    text = (tmp_path / "corpus" / "json.txt").read_bytes()
    (tmp_path / "corpus" / "json.txt").write_bytes(text.replace(b"Porto", b"Parto"))
    assert corpus.digest() != before


@pytest.mark.model
@pytest.mark.slow
def test_the_default_model_passes_in_int8_and_a_spoilt_layer_is_named(
    default_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certify, "MAX_TEXT", 200)
    config = EngineConfig(device="cpu")  # as it is served by default
    folder = tmp_path / "int8"
    folder.mkdir()
    quantize_folder(default_model, folder, name="int8")
    parent = certify._measure_parent(default_model, config, longest=200)
    figures, _ = certify._measure_child(folder, config, parent)
    assert 2000 < figures["num_tokens"] <= 13 * 200
    assert 0.99 < figures["perplexity_ratio"] < 1.02
    assert 10 < figures["parent_perplexity"] < 40
    assert figures["top1_agreement"] > 0.92 and figures["kl_mean"] < 0.01 and figures["kl_p99"] < 0.1
    assert figures["worst_weight_error"] < 0.02 and figures["greedy_prefix"] > 15
    assert figures["weight_bytes"] < 0.65 * figures["parent_weight_bytes"]
    spoilt = changed(
        folder,
        tmp_path / "spoilt",
        lambda tensors: tensors["model.layers.20.self_attn.k_proj.weight_scale"].zero_(),
    )
    figures, _ = certify._measure_child(spoilt, config, parent)
    assert figures["worst_layer"] == "model.layers.20.self_attn.k_proj"
    assert figures["worst_weight_error"] == pytest.approx(1.0)
    assert figures["kl_mean"] > 0.03
