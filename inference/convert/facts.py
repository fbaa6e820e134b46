"""Facts of a checked model folder: sizes, context length, licence. Read from headers, without torch."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from inference.checkpoints.safetensors_header import Tensor, read_header
from inference.checkpoints.serving_files import RECEIPT

INT4 = "pilothouse_int4"  # as config.json names it: inference/quantization/int4.py
CACHE_ELEMENT_BYTES = 2  # of an unquantized KV cache
TORCH_NAMES = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float64"}
MAX_TEXT_BYTES = 65_536
FRONT_MATTER_LICENCE = re.compile(r"^license:[ \t]*['\"]?([\w.+-]{1,60})['\"]?[ \t]*$", re.MULTILINE)
LICENCE_TEXTS = {  # words of a licence's text -> its name (SPDX)
    "Apache License": "apache-2.0",
    "MIT License": "mit",
    "GNU AFFERO GENERAL PUBLIC LICENSE": "agpl-3.0",
    "GNU GENERAL PUBLIC LICENSE": "gpl-3.0",
    "BSD 3-Clause License": "bsd-3-clause",
}


def facts(folder: Path, files: Mapping[str, Path]) -> dict[str, Any]:
    """The facts of a folder that passed `check_folder`; unknown ones are absent."""
    config = json.loads(files["config.json"].read_bytes())
    tensors = [
        tensor
        for name in sorted(files)
        if name.endswith(".safetensors")
        for tensor in read_header(files[name]).values()
    ]
    quantization = config.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    found = {
        "architecture": next(iter(config.get("architectures") or ()), None),
        "model_type": config["model_type"],
        "num_parameters": _num_parameters(tensors, method),
        "weight_bytes": sum(tensor.num_bytes for tensor in tensors),
        "dtype": _dtype(config, tensors),
        "quantization": method,
        "licence": licence(folder, config),
        "own_code": _own_code(files) or None,
        "converter": _converter(folder),
    }
    found |= _sequence_facts(_text_config(config))
    return {name: value for name, value in found.items() if value is not None}


def _own_code(files: Mapping[str, Path]) -> list[str]:
    """The files that name code of the model's own (`auto_map`), which is never run."""
    named = (name for name in ("config.json", "tokenizer_config.json") if name in files)
    return [name for name in named if "auto_map" in json.loads(files[name].read_bytes())]


def _converter(folder: Path) -> int | None:
    """The version of our converter that made the folder from a GGUF file; None for other folders."""
    try:
        receipt = json.loads(_text(folder / RECEIPT) or "{}")
    except ValueError:
        return None
    if not isinstance(receipt, dict) or "source_sha256" not in receipt:
        return None
    number = receipt.get("converter", 1)  # the first did not say so
    return number if type(number) is int else None


def licence(folder: Path, config: Mapping[str, Any] | None = None) -> str | None:
    """The SPDX licence by config.json, the README's front matter or the licence text; None if unknown."""
    named = (config or {}).get("license")
    if isinstance(named, str) and named:
        return named[:60].lower()
    front = re.match(r"---\s*\n(.*?)\n---", _text(folder / "README.md"), re.DOTALL)
    if front and (line := FRONT_MATTER_LICENCE.search(front.group(1))):
        return line.group(1).lower()
    for name in ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE"):
        head = _text(folder / name)[:400]
        for words, spdx in LICENCE_TEXTS.items():
            if words.lower() in head.lower():
                return spdx
    return None


def _num_parameters(tensors: list[Tensor], method: str | None) -> int:
    """Parameters without scales; int4 has two to a byte."""
    return sum(
        tensor.num_elements * (2 if method == INT4 and tensor.dtype == "U8" else 1)
        for tensor in tensors
        if not _is_scale(tensor.name)
    )


def _is_scale(name: str) -> bool:
    """Scales and zero points of quantized weights are no parameters of the model."""
    return any(word in name.rpartition(".")[2] for word in ("scale", "zero", "absmax", "quant_map"))


def _dtype(config: Mapping[str, Any], tensors: list[Tensor]) -> str | None:
    named = config.get("dtype") or config.get("torch_dtype")
    if isinstance(named, str):
        return named.removeprefix("torch.")
    sizes: Counter[str] = Counter()
    for tensor in tensors:
        if tensor.dtype in TORCH_NAMES and not _is_scale(tensor.name):
            sizes[TORCH_NAMES[tensor.dtype]] += tensor.num_bytes
    return sizes.most_common(1)[0][0] if sizes else None


def _text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part, where a config has several."""
    nested = config.get("text_config")
    return nested if isinstance(nested, dict) else config


def _sequence_facts(config: Mapping[str, Any]) -> dict[str, int]:
    def number(*names: str) -> int | None:
        found = (config.get(name) for name in names)
        return next((value for value in found if type(value) is int and value > 0), None)

    result: dict[str, int] = {}
    if length := number("max_position_embeddings", "n_positions", "n_ctx"):
        result["max_model_len"] = length
    layers, heads = number("num_hidden_layers", "n_layer"), number("num_attention_heads", "n_head")
    kv_heads, hidden = number("num_key_value_heads") or heads, number("hidden_size", "n_embd")
    head_dim = number("head_dim") or (hidden // heads if hidden and heads else None)
    if layers and kv_heads and head_dim:
        result["kv_bytes_per_token"] = layers * 2 * kv_heads * head_dim * CACHE_ELEMENT_BYTES
    return result


def _text(path: Path) -> str:
    """The beginning of a text; "" where there is none, or it is no file of this folder."""
    if not path.is_file() or path.is_symlink():
        return ""
    with path.open("rb") as file:
        return file.read(MAX_TEXT_BYTES).decode("utf-8", "replace")
