"""A folder that could run code, read other files or lie is refused with a reason before it is loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from inference.checkpoints.model_folder import UnsafeModel, check_folder, manifest, sha256
from tests.inference.convert.hostile import model_folder, safetensors_bytes

PICKLE = b"\x80\x04\x8c\x05posix\x8c\x06system\x93\x8c\x04true\x85R."


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return model_folder(tmp_path / "model")


def change_json(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps(content | values))


def link_outside(folder: Path) -> None:
    secret = folder.parent / "secret.json"
    secret.write_text("{}")
    (folder / "generation_config.json").unlink()
    (folder / "generation_config.json").symlink_to(secret)


def link_outside_deep_inside(folder: Path) -> None:
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "x.jinja").symlink_to("/etc/passwd")


def links_in_a_circle(folder: Path) -> None:
    (folder / "more").mkdir()
    (folder / "more" / "a.json").symlink_to("b.json")
    (folder / "more" / "b.json").symlink_to("a.json")


def replace_weights_by_pickle(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(PICKLE)


def split_weights_elsewhere(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    places = {"model.norm.weight": "../outside.safetensors"}
    change_json(folder / "model.safetensors.index.json", weight_map=places)


def an_index_of_nothing(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    change_json(folder / "model.safetensors.index.json", weight_map={})


def only_pickled_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(PICKLE)


def its_own_class(name: str) -> Callable[[Path], None]:
    def spoil(folder: Path) -> None:
        change_json(folder / "config.json", model_type="unheard_of")
        change_json(folder / name, auto_map={"AutoModel": "evil.Model"}, tokenizer_class="EvilTokenizer")

    return spoil


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def write(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def set_json(name: str, **values: Any) -> Callable[[Path], None]:
    return lambda folder: change_json(folder / name, **values)


HOSTILE: dict[str, tuple[Callable[[Path], None], str]] = {
    "pickled weights": (only_pickled_weights, "pytorch_model.bin .* can carry code.*save_pre"),
    "a pickle called safetensors": (replace_weights_by_pickle, "not a safetensors file"),
    "a pickle called json": (write("config.json", PICKLE), "not JSON"),
    "endless nesting": (write("generation_config.json", b"[" * 200_000), "not JSON"),
    "its own model class": (its_own_class("config.json"), "auto_map.*no model of type 'unheard_of'"),
    "its own tokenizer class": (its_own_class("tokenizer_config.json"), "auto_map.*no such tokenizer"),
    "weights of another name": (set_json("config.json", transformers_weights="x.pt"), "transformers_weights"),
    "a vocabulary elsewhere": (set_json("tokenizer_config.json", vocab_file="/etc/passwd"), "elsewhere"),
    "a base model elsewhere": (set_json("adapter_config.json", base_model_name_or_path="x/y"), "adapter"),
    "a link that leaves": (link_outside, "leaves the folder"),
    "a link deep inside": (link_outside_deep_inside, "leaves the folder"),
    "a link to itself": (
        lambda folder: (folder / "added_tokens.json").symlink_to("added_tokens.json"), "leads to itself"
    ),
    "links in a circle": (links_in_a_circle, "leads to itself"),
    "more layers than any model has": (set_json("config.json", num_hidden_layers=10**9), "num_hidden_layers"),
    "more experts than any model has": (
        set_json("config.json", text_config={"num_local_experts": 1e12}), "num_local_experts is 1e.12"
    ),
    "a description of 40 MiB": (write("generation_config.json", b" " * (40 * 2**20) + b"{}"), "larger than"),
    "weights elsewhere": (split_weights_elsewhere, "is not in"),
    "an index of nothing": (an_index_of_nothing, "no weight_map"),
    "no tokenizer": (remove("tokenizer.json"), "no tokenizer"),
    "no config": (remove("config.json"), "config.json is missing"),
    "no weights": (remove("model.safetensors"), "no weights"),
    "lying weights": (
        write("model.safetensors", safetensors_bytes({"w": {"dtype": "F32", "shape": [9]}})),
        "described wrongly",
    ),
    "a device for a file": (lambda folder: os.mkfifo(folder / "added_tokens.json"), "not a regular file"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "reason"), HOSTILE.values(), ids=HOSTILE.keys())
def test_a_hostile_folder_is_refused(spoil: Callable[[Path], None], reason: str, folder: Path) -> None:
    spoil(folder)
    with pytest.raises(UnsafeModel, match=reason):
        check_folder(folder)


def test_an_honest_folder_passes_and_is_pinned_by_hash(folder: Path) -> None:
    (folder / "README.md").write_text("for people, no part of the model")
    files = check_folder(folder)
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= files.keys()
    assert "README.md" not in files
    pinned = manifest(files)
    assert pinned["config.json"] == {
        "sha256": sha256(folder / "config.json"),
        "size": (folder / "config.json").stat().st_size,
    }


def test_links_within_the_folder_are_followed(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "blob")
    (folder / "model.safetensors").symlink_to("blob")
    assert "model.safetensors" in check_folder(folder)


def test_weights_that_others_quantized_are_refused_with_the_way_out(folder: Path) -> None:
    change_json(folder / "config.json", quantization_config={"quant_method": "mxfp4"})
    with pytest.raises(UnsafeModel, match="'mxfp4' are not read here; take the same model's float weights"):
        check_folder(folder)
