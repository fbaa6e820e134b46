"""Checks of a model folder before loading: data that runs no code and reads no other file."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from inference.checkpoints import serving_files
from inference.checkpoints.config_sizes import excessive_size
from inference.checkpoints.model_kinds import has_class, has_tokenizer_class, why_not_served
from inference.checkpoints.safetensors_header import BadHeader, Tensor, read_header
from inference.checkpoints.serving_files import INDEX
from inference.protocol.errors import RequestRejected

OWN_METHODS = "pilothouse_"  # what the names of our quantization methods begin with, in config.json
MAX_JSON_BYTES = 32 * 2**20  # the largest indexes of weights take 10 MB
MAX_VOCABULARY_BYTES = 128 * 2**20
VOCABULARIES = ("tokenizer", "vocab", "encoder", "added_tokens")  # what the names of their files begin with
TOKENIZERS = (
    {"tokenizer.json"}, {"tokenizer.model"}, {"vocab.json", "merges.txt"}, {"vocab.bpe", "encoder.json"},
    {"vocab.txt"}, {"spiece.model"}, {"sentencepiece.bpe.model"},
)  # fmt: skip
TOKENIZER_CONFIG = "tokenizer_config.json"
ADAPTER = "an adapter (LoRA) is no model: merge it into its base model first (peft's merge_and_unload)"
CONVERT = (
    "make safetensors of it where you trust it: "
    "AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER), and the same for AutoTokenizer"
)
FLOAT_WEIGHTS = "take the same model's float weights (often published as BF16), and quantize those here"
PACKED_DTYPES = frozenset({"U8", "I8", "U16", "I16", "U32", "I32", "I64"})
PACKED_NAMES = (".weight", ".qweight", ".weight_packed", "_blocks")


class CannotLoad(RequestRejected):
    """A model that will not be loaded, with the reason."""

    code = "model_cannot_load"


class UnsafeModel(CannotLoad):
    """A folder that is refused; the message says why."""

    code = "unsafe_model"


class NotServed(CannotLoad):
    """A valid model of a kind that is not served."""

    code = "kind_not_served"


class TooLittleMemory(CannotLoad):
    """There is no room for the weights, or for a pool that would hold a single useful sequence."""

    code = "too_little_memory"


def check_folder(folder: Path) -> dict[str, Path]:
    """The files that serving reads, by name; nothing else in the folder is opened.

    Raises `UnsafeModel` before anything but headers and JSON has been read, and `CannotLoad` for a model
    that does something else than continue texts.
    """
    if not folder.is_dir():
        raise UnsafeModel(f"{folder} is not a folder")
    files = check_descriptions(folder)
    if not any(names <= files.keys() for names in TOKENIZERS):
        raise UnsafeModel(_no_tokenizer(os.listdir(folder)))
    found = serving_files.listed(folder.resolve())
    index = _read_json(files[INDEX]) if INDEX in files else None
    try:
        files |= _check_weights(found, index, files)
    except BadHeader as error:
        raise UnsafeModel(str(error)) from error
    return dict(sorted(files.items()))


def check_descriptions(folder: Path) -> dict[str, Path]:
    """The first half of `check_folder`: everything but the weights, which may not be downloaded yet."""
    root = folder.resolve()
    _check_links(root)
    found = serving_files.listed(root)
    files = {name: path for name, path in found.items() if serving_files.is_description(name)}
    if serving_files.WHOLE in found:
        files.pop(INDEX, None)
    for name, path in files.items():
        if not path.is_file():
            raise UnsafeModel(f"{name} is not a regular file")
        if name.endswith(".json"):
            _check_json(name, _read_json(path))
    _check_config(files, found)
    return files


def ignored(folder: Path, files: Collection[str]) -> list[str]:
    """The other files of the folder, which are not read; shown to the person who imports it."""
    return serving_files.ignored(serving_files.listed(folder.resolve()), files)


def check_quantization(config: Mapping[str, Any], found: Collection[str]) -> None:
    """Raises `UnsafeModel` where config.json, or a file beside it, names a foreign quantization method."""
    quantization = config.get("quantization_config") or config.get("compression_config")
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    if method is not None and str(method).startswith(OWN_METHODS):
        return
    if quantization:
        by = repr(method) if method is not None else "a method that config.json does not name"
    elif isinstance(config.get("quantization"), dict):
        by = "MLX"
    elif "hf_quant_config.json" in found:
        by = "ModelOpt (hf_quant_config.json)"
    else:
        return
    raise UnsafeModel(f"config.json: weights quantized by {by} are not read here; {FLOAT_WEIGHTS}")


def manifest(files: dict[str, Path]) -> dict[str, dict[str, Any]]:
    """Name -> sha256 and size: what a revision is pinned to."""
    return {
        name: {"sha256": sha256(path), "size": path.stat().st_size} for name, path in sorted(files.items())
    }


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_links(root: Path) -> None:
    """No link may leave the folder, except into the blobs of the hub's cache that a snapshot belongs to."""
    blobs = root.parent.parent / "blobs" if root.parent.name == "snapshots" else None
    for path in root.rglob("*"):
        if not path.is_symlink():
            continue
        try:
            target = path.resolve()
        except (OSError, RuntimeError) as error:  # RuntimeError: so Python says until 3.12
            raise UnsafeModel(f"{path.name} is a link that leads to itself") from error
        if not target.is_relative_to(root) and (blobs is None or target.parent != blobs):
            raise UnsafeModel(
                f"{path.name} is a link that leaves the folder (cp -rL makes a copy without links)"
            )


def _read_json(path: Path) -> Any:
    bound = MAX_VOCABULARY_BYTES if path.name.startswith(VOCABULARIES) else MAX_JSON_BYTES
    if path.stat().st_size > bound:
        raise UnsafeModel(f"{path.name} is larger than {bound} bytes")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise UnsafeModel(f"{path.name} is not JSON") from error


def _check_json(name: str, content: Any) -> None:
    """Raises `UnsafeModel` for keys that make transformers open other files."""
    if name.startswith(("tokenizer", "vocab")) and name not in ("tokenizer_config.json",):
        return  # vocabularies: their keys are tokens
    for key, value in _entries(content):
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


def _check_config(files: Mapping[str, Path], found: Collection[str]) -> None:
    if "config.json" not in files:
        is_adapter = "adapter_config.json" in found
        raise UnsafeModel(ADAPTER if is_adapter else "config.json is missing")
    if "adapter_config.json" in found:  # transformers would load it, and look for its base model
        raise UnsafeModel(ADAPTER)
    config = _read_json(files["config.json"])
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise UnsafeModel("config.json names no model_type")
    if what := excessive_size(config):
        raise UnsafeModel(f"config.json: {what}")
    if "transformers_weights" in config:
        raise UnsafeModel("config.json names files of weights of its own (transformers_weights): remove that")
    _check_code(files, config)
    check_quantization(config, found)
    if why := why_not_served(config, found):
        architecture = next(iter(config.get("architectures") or ()), config["model_type"])
        raise NotServed(f"{architecture}: {why}")


def _check_code(files: Mapping[str, Path], config: Mapping[str, Any]) -> None:
    """Raises `UnsafeModel` for models that need remote code, which is never run."""
    model_type = config["model_type"]
    if "auto_map" in config and not has_class(model_type):
        raise UnsafeModel(
            f"config.json wants to run its own code (auto_map), which is refused, and transformers itself"
            f" knows no model of type {model_type!r}"
        )
    tokenizer = _read_json(files[TOKENIZER_CONFIG]) if TOKENIZER_CONFIG in files else {}
    if not isinstance(tokenizer, dict) or "auto_map" not in tokenizer:
        return
    if not has_tokenizer_class(model_type, tokenizer.get("tokenizer_class")):
        raise UnsafeModel(
            f"{TOKENIZER_CONFIG} wants to run its own code (auto_map), which is refused, and transformers"
            " itself has no such tokenizer"
        )


def _check_weights(found: Mapping[str, Path], index: Any, files: Mapping[str, Path]) -> dict[str, Path]:
    """The files of weights, each with a sound header, that hold what the index says."""
    names = serving_files.weights(found, index)
    if not names and INDEX not in files:
        raise UnsafeModel(_no_weights(found))
    for name in names:
        if not found[name].is_file():
            raise UnsafeModel(f"{name} is not a regular file")
    tensors = {name: read_header(found[name]) for name in names}
    if INDEX in files:
        _check_index(index, tensors)
    if not _is_ours(files["config.json"]):
        _check_not_packed(tensors)
    return {name: found[name] for name in names}


def _check_index(index: Any, tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    places = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(places, dict) or not places:
        raise UnsafeModel(f"{INDEX} has no weight_map")
    for tensor, place in places.items():
        if not isinstance(place, str) or tensor not in tensors.get(place, ()):
            raise UnsafeModel(f"{INDEX}: {tensor!r} is not in {place!r}")


def _is_ours(config: Path) -> bool:
    """True if the weights were quantized by one of our methods."""
    return bool(_read_json(config).get("quantization_config"))  # others' have been refused


def _check_not_packed(tensors: Mapping[str, Mapping[str, Tensor]]) -> None:
    for tensor in (tensor for of_file in tensors.values() for tensor in of_file.values()):
        if tensor.dtype in PACKED_DTYPES and tensor.name.endswith(PACKED_NAMES):
            raise UnsafeModel(
                f"the weights are quantized by another program ({tensor.name} holds integers, {tensor.dtype})"
                f" and not read here; {FLOAT_WEIGHTS}"
            )


def _no_weights(names: Collection[str]) -> str:
    if pickled := next((name for name in names if name.lower().endswith(serving_files.PICKLES)), None):
        return (
            f"no weights: {pickled} and its like can carry code and are never read, and there is no"
            f" .safetensors file; {CONVERT}"
        )
    if other := next((name for name in names if name.endswith(".safetensors")), None):
        return f"neither {serving_files.WHOLE} nor {INDEX} is there, only {other}: give it the first name"
    return "no weights: there is no .safetensors file"


def _no_tokenizer(names: Collection[str]) -> str:
    asked = "tokenizer.json (or tokenizer.model, or vocab.json and merges.txt) is missing"
    if "tekken.json" in names:
        return (
            f"no tokenizer: {asked}, and tekken.json alone is not read; take tokenizer.json from the same"
            " model's other repository, or convert it with transformers"
        )
    return f"no tokenizer: {asked}"
