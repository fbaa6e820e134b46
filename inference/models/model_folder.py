"""What a folder must be before a model is loaded from it: data that runs no code and reads no other file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from inference.models.safetensors_header import BadHeader, read_header
from inference.protocol import Refusal

RECEIPT = "converted.json"  # about a conversion: for people, no part of the model
INDEX = "model.safetensors.index.json"
OWN_METHODS = "pilothouse_"  # what the names of our quantization methods begin with, in config.json
MAX_JSON_BYTES = 128 * 2**20
MODEL_SUFFIXES = {".json", ".safetensors", ".jinja", ".txt", ".model"}  # what is hashed and may be read
CODE_SUFFIXES = {
    ".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz", ".h5", ".msgpack",
    ".py", ".pyc", ".so",
}  # fmt: skip
TOKENIZERS = ({"tokenizer.json"}, {"tokenizer.model"}, {"vocab.json", "merges.txt"})


class CannotLoad(Refusal):
    """A model that will not be loaded, with the reason."""

    code = "model_cannot_load"


class UnsafeModel(CannotLoad):
    """A folder that is refused; the message says why."""


def check_folder(folder: Path) -> dict[str, Path]:
    """The model's files by name. Raises `UnsafeModel` before anything but headers and JSON has been read."""
    if not folder.is_dir():
        raise UnsafeModel(f"{folder} is not a folder")
    files = check_descriptions(folder)
    if not any(names <= files.keys() for names in TOKENIZERS):
        raise UnsafeModel(
            "no tokenizer: tokenizer.json (or tokenizer.model, or vocab.json and merges.txt) is missing"
        )
    try:
        _check_weights(files)
    except BadHeader as error:
        raise UnsafeModel(str(error)) from error
    return files


def check_descriptions(folder: Path) -> dict[str, Path]:
    """The first half of `check_folder`: everything but the weights, which may still be on their way."""
    files = _files(folder)
    for name in sorted(files):
        if name.endswith(".json"):
            _check_json(name, _read_json(files[name]))
    _check_config(files)
    return files


def manifest(files: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Name -> sha256 and size: what a revision is pinned to."""
    return {
        name: {"sha256": sha256(path), "size": path.stat().st_size} for name, path in sorted(files.items())
    }


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _files(folder: Path) -> dict[str, Path]:
    root = folder.resolve()
    for path in root.rglob("*"):
        if path.is_symlink() and not path.resolve().is_relative_to(root):
            raise UnsafeModel(
                f"{path.name} is a link that leaves the folder (cp -rL makes a copy without links)"
            )
    files: dict[str, Path] = {}
    for entry in sorted(os.scandir(root), key=lambda entry: entry.name):
        path = Path(entry.path)
        if path.suffix.lower() in CODE_SUFFIXES:
            raise UnsafeModel(
                f"{entry.name}: files that can carry code are refused; weights must be safetensors"
            )
        if path.suffix.lower() in MODEL_SUFFIXES and entry.name != RECEIPT:
            if not path.is_file():
                raise UnsafeModel(f"{entry.name} is not a regular file")
            files[entry.name] = path
    return files


def _read_json(path: Path) -> Any:
    if path.stat().st_size > MAX_JSON_BYTES:
        raise UnsafeModel(f"{path.name} is larger than {MAX_JSON_BYTES} bytes")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UnsafeModel(f"{path.name} is not JSON") from error


def _check_json(name: str, content: Any) -> None:
    """Refuses what makes transformers import code or open files that lie elsewhere."""
    if name == "adapter_config.json":
        raise UnsafeModel("an adapter is no model: merge it into its base model first")
    if name.startswith(("tokenizer", "vocab")) and name not in ("tokenizer_config.json",):
        return  # vocabularies: their keys are tokens
    for key, value in _entries(content):
        if key == "auto_map":
            raise UnsafeModel(f"{name} wants to run its own code (auto_map), which is refused")
        is_path = isinstance(value, str) and key.endswith("_file") and key != "special_tokens_map_file"
        if is_path and ("/" in value or "\\" in value or value.startswith(".")):
            raise UnsafeModel(f"{name} points at a file elsewhere: {key}={value!r}")


def _entries(content: Any) -> Iterator[tuple[str, Any]]:
    stack = [content]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            yield from node.items()
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)


def _check_config(files: dict[str, Path]) -> None:
    if "config.json" not in files:
        raise UnsafeModel("config.json is missing")
    config = _read_json(files["config.json"])
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UnsafeModel("config.json names no model_type")
    quantization = config.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    if method is not None and not str(method).startswith(OWN_METHODS):
        raise UnsafeModel(
            f"config.json: weights quantized by {method!r} are not read here; take the same model's float "
            "weights (often published as BF16), and quantize those here"
        )


def _check_weights(files: dict[str, Path]) -> None:
    weights = [name for name in files if name.endswith(".safetensors")]
    if not weights:
        raise UnsafeModel("no weights: there is no .safetensors file")
    tensors = {name: read_header(files[name]) for name in weights}
    if INDEX not in files:
        if "model.safetensors" not in files:
            raise UnsafeModel(f"neither model.safetensors nor {INDEX} is there")
        return
    index = _read_json(files[INDEX])
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places:
        raise UnsafeModel(f"{INDEX} has no weight_map")
    for tensor, place in places.items():
        if not isinstance(place, str) or tensor not in tensors.get(place, ()):
            raise UnsafeModel(f"{INDEX}: {tensor!r} is not in {place!r}")
