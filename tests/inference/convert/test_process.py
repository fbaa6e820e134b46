"""The child process: what it writes appears whole or not at all, and says itself why not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from inference.convert import __main__ as child
from inference.convert.output import CannotWrite, atomic_folder, check_disk
from inference.quantization import registry as quantization
from tests.inference.convert.hostile import model_folder, tiny_gguf


class Outcome(NamedTuple):
    exit_code: int
    last: dict[str, Any]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Outcome]]:
    """The child's main function in this process; its signal handlers are taken back afterwards."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def call(*arguments: str | Path) -> Outcome:
        exit_code = child.main([str(argument) for argument in arguments])
        return Outcome(exit_code, json.loads(capsys.readouterr().out.splitlines()[-1]))

    yield call
    for number, handler in before.items():
        signal.signal(number, handler)


def start(*arguments: str | Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "inference.convert", "--with-parent", *map(str, arguments)]
    return subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )


def until_torch_starts(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line).get("stage") == "starting torch":
            return


def left_in(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.endswith(".lock")}


def test_a_gguf_file_becomes_the_same_model(run: Callable[..., Outcome], tmp_path: Path) -> None:
    exact = tiny_gguf(tmp_path / "tiny.gguf")
    target = tmp_path / "tiny"
    outcome = run("--gguf", tmp_path / "tiny.gguf", "--target", target, "--dtype", "float32")
    assert outcome.exit_code == 0
    assert {"config.json", "model.safetensors", "tokenizer.json", "generation_config.json"} <= outcome.last[
        "files"
    ].keys()
    model, tokenizer = AutoModelForCausalLM.from_pretrained(target), AutoTokenizer.from_pretrained(target)
    token_ids = tokenizer("abba", return_tensors="pt", add_special_tokens=False).input_ids
    assert token_ids.tolist() == [[256, *tokenizer.convert_tokens_to_ids(["b", "a"])]]
    with torch.no_grad():
        torch.testing.assert_close(model(token_ids).logits, exact(token_ids).logits)
    assert model.generation_config.eos_token_id == 259
    assert tokenizer.apply_chat_template([{"role": "user", "content": "x"}], tokenize=False) == "x"
    receipt = json.loads((target / "converted.json").read_text())
    assert receipt["files"] == outcome.last["files"] and len(receipt["source_sha256"]) == 64


def test_a_gguf_file_can_be_quantized_in_one_go(run: Callable[..., Outcome], tmp_path: Path) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    outcome = run("--gguf", tmp_path / "tiny.gguf", "--target", tmp_path / "tiny", "--quantize", "int8")
    assert outcome.exit_code == 0
    assert left_in(tmp_path) == {"tiny.gguf", "tiny"} and not (tmp_path / "tiny" / "floats").exists()
    assert quantization.METHODS
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "tiny")
    assert model.model.layers[0].mlp.up_proj.weight.dtype == torch.int8
    receipt = json.loads((tmp_path / "tiny" / "converted.json").read_text())
    assert receipt["quantization"]["method"] == "int8"
    assert receipt["quantization"]["num_layers"] == 14
    assert 0 < receipt["quantization"]["worst_weight_error"] < 0.02


def test_a_folder_is_checked_and_left_alone(run: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    before = left_in(folder)
    outcome = run("--folder", folder)
    assert outcome.last["folder"] == str(folder) and "model.safetensors" in outcome.last["files"]
    assert left_in(folder) == before


def test_a_quantized_folder_has_everything_of_its_source(run: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    outcome = run("--folder", folder, "--quantize", "int8", "--target", tmp_path / "int8")
    assert outcome.last["files"].keys() == left_in(folder)
    assert outcome.last["files"]["tokenizer.json"] == run("--folder", folder).last["files"]["tokenizer.json"]


def test_an_unsafe_folder_ends_with_a_reason(run: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    exit_code, last = run("--folder", folder)
    assert (exit_code, last["event"], last["code"]) == (1, "error", "unsafe_model")
    assert "pytorch_model.bin" in last["message"]


def test_a_file_that_is_no_gguf_ends_with_a_reason(run: Callable[..., Outcome], tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK" * 100)
    outcome = run("--gguf", tmp_path / "x.gguf", "--target", tmp_path / "x")
    assert outcome.last["code"] == "unsafe_model" and left_in(tmp_path) == {"x.gguf"}


def test_an_architecture_that_transformers_cannot_read_ends_with_a_reason(
    run: Callable[..., Outcome], tmp_path: Path
) -> None:
    tiny_gguf(tmp_path / "tiny.gguf")
    content = (tmp_path / "tiny.gguf").read_bytes().replace(b"llama", b"alpac")
    (tmp_path / "tiny.gguf").write_bytes(content)
    outcome = run("--gguf", tmp_path / "tiny.gguf", "--target", tmp_path / "x")
    assert outcome.last["code"] == "cannot_convert" and left_in(tmp_path) == {"tiny.gguf"}


def test_a_disk_that_is_too_small_is_said_before_work_starts(tmp_path: Path) -> None:
    with pytest.raises(CannotWrite, match="too small"):
        check_disk(tmp_path, num_bytes=2**60)


def test_what_a_killed_run_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".model.part").mkdir()
    (tmp_path / ".model.part" / "half").write_text("x")
    with atomic_folder(tmp_path / "model") as part:
        (part / "whole").write_text("y")
        assert not (tmp_path / "model").exists()
    assert left_in(tmp_path) == {"model"} and left_in(tmp_path / "model") == {"whole"}


def test_a_failed_run_leaves_nothing_and_two_runs_do_not_meet(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "model"):
        with pytest.raises(CannotWrite, match="another process"), atomic_folder(tmp_path / "model"):
            pass
        raise ZeroDivisionError
    assert left_in(tmp_path) == set()


def test_sigterm_cancels_and_leaves_nothing(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    with start("--folder", folder, "--quantize", "int8", "--target", tmp_path / "int8") as process:
        until_torch_starts(process)
        process.terminate()
        assert process.stdout is not None
        assert json.loads(process.stdout.read().splitlines()[-1]) == {"event": "cancelled"}
    assert process.returncode == 128 + signal.SIGTERM
    assert left_in(tmp_path) == {"model"}


def test_the_child_cancels_itself_when_its_parent_is_gone(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    with start("--folder", folder, "--quantize", "int8", "--target", tmp_path / "int8") as process:
        until_torch_starts(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 128 + signal.SIGTERM
    assert left_in(tmp_path) == {"model"}


def test_a_template_that_never_ends_is_refused_by_name(run: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    (folder / "chat_template.jinja").write_text(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    )
    outcome = run("--folder", folder)
    assert outcome.exit_code == 1 and outcome.last["code"] == "unsafe_model"
    assert outcome.last["message"].startswith("chat_template: trying it took longer than 5 s")


def test_a_tokenizer_that_explodes_is_refused_by_name(run: Callable[..., Outcome], tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "model")
    described = json.loads((folder / "tokenizer.json").read_text())
    grow = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 1000}
    described["normalizer"] = {"type": "Sequence", "normalizers": [grow] * 4}
    (folder / "tokenizer.json").write_text(json.dumps(described))
    outcome = run("--folder", folder)
    assert outcome.exit_code == 1 and outcome.last["code"] == "unsafe_model"
    assert outcome.last["message"].startswith("tokenizer: trying it took more memory than it may")


def test_a_template_that_is_broken_is_flagged_and_the_model_taken(
    run: Callable[..., Outcome], tmp_path: Path
) -> None:
    folder = model_folder(tmp_path / "model")
    assert "template_note" not in run("--folder", folder).last["facts"]
    (folder / "chat_template.jinja").write_text("{% for m in %}")
    outcome = run("--folder", folder)
    assert outcome.exit_code == 0
    assert "template refuses these messages" in outcome.last["facts"]["template_note"]
