"""Folders as people have them: of their own training, or of the hub's cache. What serving reads is taken."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig

from inference.checkpoints.model_folder import UnsafeModel, check_folder
from inference.config import EngineConfig
from inference.models.loader import load_model
from tests.inference.convert.hostile import model_folder
from tests.inference.convert.test_process import Outcome, left_in, run

__all__ = ["run"]
PICKLE = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."
OF_TRAINING = ["training_args.bin", "optimizer.pt", "rng_state.pth", "scheduler.pt", "modeling_own.py"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model")


@pytest.fixture
def trained(folder: Path) -> Path:
    """As a trainer leaves it."""
    for name in OF_TRAINING:
        (folder / name).write_bytes(PICKLE)
    (folder / "trainer_state.json").write_text("{ not JSON")
    checkpoint = folder / "checkpoint-500"
    checkpoint.mkdir()
    (checkpoint / "pytorch_model.bin").write_bytes(PICKLE)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tool_use.jinja").write_text("{{ messages }}")
    (folder / "chat_template.jinja").write_text("{% for one in messages %}{{ one.content }}{% endfor %}")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    return folder


def test_a_folder_of_training_is_copied_without_what_serving_never_reads(
    run: Callable[..., Outcome], trained: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target"
    exit_code, last = run("--folder", trained, "--target", target)
    assert exit_code == 0, last
    assert last["folder"] == str(target)
    assert last["facts"]["ignored"] == sorted([*OF_TRAINING, "checkpoint-500", "trainer_state.json"])
    assert last["facts"]["licence"] == "mit"
    kept = {"config.json", "model.safetensors", "tokenizer.json", "additional_chat_templates/tool_use.jinja"}
    assert kept <= last["files"].keys()
    assert not left_in(target) & {*OF_TRAINING, "checkpoint-500", "trainer_state.json"}
    assert load_model(target, EngineConfig(device="cpu", dtype="float32")).batching


def test_what_is_ignored_is_never_opened(run: Callable[..., Outcome], folder: Path, tmp_path: Path) -> None:
    for name in ("optimizer.pt", "pytorch_model.bin", "events.json"):
        os.mkfifo(folder / name)  # to open it would wait for ever
    (folder / "wandb").mkdir()
    os.mkfifo(folder / "wandb" / "config.json")
    outcome = run("--folder", folder, "--target", tmp_path / "target")
    assert outcome.exit_code == 0 and "optimizer.pt" in outcome.last["facts"]["ignored"]


def test_a_folder_that_holds_nothing_else_stays_where_it_is(
    run: Callable[..., Outcome], folder: Path, tmp_path: Path
) -> None:
    (folder / "README.md").write_text("for people")
    (folder / ".gitattributes").write_text("")
    outcome = run("--folder", folder, "--target", tmp_path / "target")
    assert outcome.last["folder"] == str(folder) and not (tmp_path / "target").exists()
    assert "ignored" not in outcome.last["facts"]


def test_many_ignored_names_are_counted(run: Callable[..., Outcome], folder: Path, tmp_path: Path) -> None:
    for number in range(50):
        (folder / f"rng_state_{number}.pth").touch()
    facts = run("--folder", folder, "--target", tmp_path / "target").last["facts"]
    assert len(facts["ignored"]) == 20 and facts["num_ignored"] == 50


@pytest.fixture
def snapshot(folder: Path, tmp_path: Path) -> Path:
    """The folder as the hub's cache keeps it: names that are links to blobs."""
    repository = tmp_path / "hub" / "models--someone--tiny"
    made = repository / "snapshots" / ("0123456789" * 4)
    (repository / "blobs").mkdir(parents=True)
    made.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.iterdir())):
        path.rename(repository / "blobs" / f"{number:064x}")
        (made / path.name).symlink_to(f"../../blobs/{number:064x}")
    return made


def test_a_snapshot_of_the_hubs_cache_is_imported(run: Callable[..., Outcome], snapshot: Path) -> None:
    outcome = run("--folder", snapshot, "--target", snapshot.parent / "target")
    assert outcome.exit_code == 0, outcome.last
    assert "model.safetensors" in outcome.last["files"]


def test_links_of_a_snapshot_lead_into_its_own_blobs_alone(snapshot: Path, tmp_path: Path) -> None:
    other = tmp_path / "hub" / "models--someone--else" / "blobs" / "0"
    other.parent.mkdir(parents=True)
    other.write_text("{}")
    (snapshot / "added_tokens.json").symlink_to(other)
    with pytest.raises(UnsafeModel, match="leaves the folder"):
        check_folder(snapshot)


def change(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_code_of_the_models_own_is_passed_over_where_transformers_has_the_class(
    run: Callable[..., Outcome], folder: Path, tmp_path: Path
) -> None:
    canary = tmp_path / "canary"
    (folder / "modeling_own.py").write_text(f"open({str(canary)!r}, 'w')")
    own = {"AutoConfig": "modeling_own.Own", "AutoModelForCausalLM": "modeling_own.Own"}
    change(folder / "config.json", auto_map=own)
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_own.Own", None]})
    target = tmp_path / "target"
    outcome = run("--folder", folder, "--target", target)
    assert outcome.exit_code == 0, outcome.last
    assert outcome.last["facts"]["own_code"] == ["config.json", "tokenizer_config.json"]
    loaded = load_model(target, EngineConfig(device="cpu", dtype="float32"))
    assert type(loaded.model).__name__ == "LlamaForCausalLM" and not canary.exists()


def test_weights_that_lack_a_tensor_are_refused_at_import(run: Callable[..., Outcome], folder: Path) -> None:
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    del tensors["lm_head.weight"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    outcome = run("--folder", folder)
    assert (
        outcome.last["code"] == "cannot_load" and "the weights lack lm_head.weight" in outcome.last["message"]
    )


def test_weights_of_other_shapes_are_refused_in_words_of_ours(
    run: Callable[..., Outcome], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(folder / "config.json", intermediate_size=AutoConfig.from_pretrained(folder).intermediate_size * 2)
    last = run("--folder", folder).last
    assert last["code"] == "cannot_load" and "may be of different models" in last["message"]
    assert "ignore_mismatched_sizes" not in last["message"]


def test_what_a_library_says_stays_in_the_log(
    run: Callable[..., Outcome], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise IndexError("deep inside /secret/path")

    monkeypatch.setattr("inference.convert.__main__.facts", fails)
    last = run("--folder", folder).last
    assert last["code"] == "cannot_convert" and "IndexError" in last["message"]
    assert "/secret/path" not in last["message"]


def test_the_trial_reads_no_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from inference.convert import load_trial

    seen = []
    real = load_trial.read_model

    def watched(*arguments: Any, **options: Any) -> Any:
        model = real(*arguments, **options)
        seen.extend(parameter.device for parameter in model.parameters())
        return model

    monkeypatch.setattr(load_trial, "read_model", watched)
    load_trial.trial_facts(folder)
    assert seen and set(seen) == {torch.device("meta")}


def test_a_tokenizer_that_no_load_could_read_is_refused_at_import(
    run: Callable[..., Outcome], folder: Path
) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer.model").write_bytes(b"IQ== 0\nIg== 1\n")  # tiktoken's form
    last = run("--folder", folder).last
    assert last["code"] == "unsafe_model" and "Take tokenizer.json" in last["message"], last
    assert "Error" not in last["message"]
