"""What a revision will take in memory, estimated from its files before it was ever loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import lru_cache
from math import prod
from pathlib import Path
from typing import Any

from console.catalog.models import Revision
from inference.architectures import can_keep_bf16
from inference.config import EngineConfig
from inference.kv_pool_size import Pool
from inference.protocol.stats import Device

ITEM_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
STORED_BYTES = {"U8": 1, "I8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "I16": 2, "I32": 4, "I64": 8}  # kept
KEPT_WHOLE = ("embed", "lm_head", "norm", "wte", "wpe")  # quantizing while loading leaves these as they are
FACTS_ELEMENT_BYTES = 2  # in which facts count keys and values


def item_bytes(config: EngineConfig, device: Device) -> int:
    """Of a weight that is not quantized, as the revision will compute with it."""
    return ITEM_BYTES[device.dtype if config.dtype == "auto" else config.dtype]


def kv_item_bytes(config: EngineConfig, device: Device) -> int:
    """Of an element of a key or a value."""
    return 1 if config.kv_dtype == "fp8" else item_bytes(config, device)


def weight_bytes(revision: Revision, config: EngineConfig, device: Device) -> int:
    """Memory of the weights in the dtype that they will have."""
    size, quantizes = item_bytes(config, device), bool(config.quantization)
    try:
        return _bytes_of_files(revision.path, size, quantizes, _may_stay_narrow(config, device))
    except (OSError, ValueError, KeyError, TypeError):  # no files here, or none that can be read
        return _bytes_of_facts(revision.facts, size) or revision.num_bytes


def pool_of(revision: Revision, config: EngineConfig, device: Device) -> Pool | None:
    """The KV pool that it can have; None where too little is known of the model."""
    facts = _text_config(revision.path) | revision.facts
    elements = facts.get("kv_bytes_per_token")
    max_model_len = config.max_model_len or facts.get("max_model_len")
    if not elements or not max_model_len:
        return None
    return Pool(
        token_bytes=elements // FACTS_ELEMENT_BYTES * kv_item_bytes(config, device),
        block_size=config.block_size,
        max_model_len=max_model_len,
        max_num_seqs=config.max_num_seqs,
        is_cuda=device.name == "cuda",
    )


def _may_stay_narrow(config: EngineConfig, device: Device) -> bool:
    is_known = config.batching and config.fused_layers
    return device.keeps_bfloat16 and is_known and item_bytes(config, device) == ITEM_BYTES["float32"]


@lru_cache(maxsize=256)
def _bytes_of_files(folder: Path, size: int, quantizes: bool, may_keep_bf16: bool) -> int:
    files = list(folder.glob("*.safetensors"))
    if not files:
        raise FileNotFoundError(folder)
    tensors = [tensor for file in files for tensor in _tensors(file)]
    settings = json.loads((folder / "config.json").read_text())
    quantizes = quantizes and "quantization_config" not in settings
    if settings.get("tie_word_embeddings"):
        tensors = [tensor for tensor in tensors if "lm_head" not in tensor[0]]
    architecture = next(iter(settings.get("architectures") or []), "")
    names = ((name, dtype) for name, dtype, _ in tensors)
    matrix_size = ITEM_BYTES["bfloat16"] if may_keep_bf16 and can_keep_bf16(architecture, names) else size
    return sum(_bytes_of(*tensor, sizes=(size, matrix_size), quantizes=quantizes) for tensor in tensors)


def _bytes_of(name: str, dtype: str, shape: list[int], *, sizes: tuple[int, int], quantizes: bool) -> int:
    """`sizes`: of an element as it is computed with, and of one of a matrix."""
    if dtype in STORED_BYTES:
        return prod(shape) * STORED_BYTES[dtype]
    if name.endswith("_scale"):
        return prod(shape) * ITEM_BYTES["float32"]
    if quantizes and len(shape) == 2 and not any(part in name for part in KEPT_WHOLE):
        return prod(shape) + shape[0] * ITEM_BYTES["float32"]  # int8 and a scale for each row
    return prod(shape) * sizes[len(shape) == 2]


def _tensors(file: Path) -> Iterator[tuple[str, str, list[int]]]:
    """Name, stored dtype and shape; the header was checked when the file was imported."""
    with file.open("rb") as opened:
        header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
    for name, entry in header.items():
        if name != "__metadata__":
            yield name, entry["dtype"], entry["shape"]


def _bytes_of_facts(facts: dict[str, Any], size: int) -> int:
    if facts.get("quantization") or not facts.get("num_parameters"):
        return int(facts.get("weight_bytes") or 0)
    return int(facts["num_parameters"]) * size


@lru_cache(maxsize=256)
def _text_config(folder: Path) -> dict[str, Any]:
    """Facts of the KV pool, from config.json; empty where it cannot be read."""
    try:
        settings = json.loads((folder / "config.json").read_text())
        text = settings.get("text_config", settings)
        num_heads = text["num_attention_heads"]
        num_kv_heads = text.get("num_key_value_heads") or num_heads
        head_dim = text.get("head_dim") or text["hidden_size"] // num_heads
        elements = 2 * text["num_hidden_layers"] * num_kv_heads * head_dim
        max_model_len = text["max_position_embeddings"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {"kv_bytes_per_token": elements * FACTS_ELEMENT_BYTES, "max_model_len": max_model_len}
