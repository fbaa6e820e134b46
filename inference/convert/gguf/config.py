"""A GGUF file's metadata as a transformers config; what cannot be expressed is refused.

Without it a converted model answers, only worse: Llama 3.1 would turn its heads by the wrong frequencies.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from transformers import CONFIG_MAPPING, PretrainedConfig
from transformers.integrations import GGUF_CONFIG_MAPPING

from inference.convert.gguf.families import FAMILIES, Family
from inference.convert.gguf.header import CannotConvert, GgufHeader
from inference.convert.gguf.tensors import read_tensor

# What all of Llama 3.1, 3.2 and 3.3 are published with; only the factor differs.
LLAMA3_CONTEXT, LLAMA3_LOW, LLAMA3_HIGH = 8192, 1.0, 4.0
LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}  # whose scores are scaled by another width than the head's
NAMED_TOKENS = {"bos_token_id": "bos", "eos_token_id": "eos", "pad_token_id": "padding"}


def family_of(header: GgufHeader) -> Family:
    """The family of the header's architecture. Raises `CannotConvert` for an unknown one."""
    family = FAMILIES.get(header.architecture)
    if family is None:
        raise CannotConvert(
            f"GGUF files of the architecture {header.architecture!r} are not converted (those that are:"
            f" {', '.join(sorted(FAMILIES))}): take the model's folder of safetensors"
        )
    return family


def read_config(header: GgufHeader) -> PretrainedConfig:
    """The transformers config of a GGUF header. Raises `CannotConvert`."""
    family = family_of(header)
    values = _values(header, family)
    config: PretrainedConfig = CONFIG_MAPPING[family.model_type].from_dict(values)
    if header.architecture == "gpt-oss":
        return config
    if scaling := _rotary_scaling(header):
        parameters = config.rope_parameters
        parameters.get("full_attention", parameters).update(scaling)
    if header.architecture in LAYERS_OF_27B:
        is_27b = config.num_hidden_layers == LAYERS_OF_27B[header.architecture]
        width = config.hidden_size // config.num_attention_heads if is_27b else config.head_dim
        config.query_pre_attn_scalar = width
    return config


def _values(header: GgufHeader, family: Family) -> dict[str, Any]:
    names = family.keys if family.keys is not None else GGUF_CONFIG_MAPPING[family.known_as]
    values: dict[str, Any] = dict(family.defaults)
    for key, name in names.items():
        if name is not None and (value := header.of_model(key)) is not None:
            values[name] = value
    lacking = [key for key in family.needed if header.of_model(key) is None]
    if lacking:
        raise CannotConvert(f"the file does not say {header.architecture}.{lacking[0]}")
    if (head_dim := header.of_model("attention.key_length")) and family.has_head_dim:
        values["head_dim"] = head_dim
    values["tie_word_embeddings"] = "output.weight" not in header.tensors or family.is_always_tied
    if (embedding := header.tensors.get("token_embd.weight")) is not None and len(embedding.shape) == 2:
        values["vocab_size"] = embedding.shape[1]
    for name, key in NAMED_TOKENS.items():
        token_id = header.number(f"tokenizer.ggml.{key}_token_id")
        is_token = token_id is not None and token_id < values.get("vocab_size", 0)
        values[name] = token_id if is_token else None
    if family.adjust is not None:
        family.adjust(header, values)
    return values


def _rotary_scaling(header: GgufHeader) -> dict[str, Any]:
    if any(name.startswith("rope_factors_") for name in header.tensors):
        raise CannotConvert("the rotary embedding is longrope, which is not converted from GGUF")
    if "rope_freqs.weight" in header.tensors:
        divisors = read_tensor(header.tensors["rope_freqs.weight"]).astype(np.float64).ravel()
        return _llama3(divisors, header.of_model("rope.freq_base") or 10_000.0)
    kind = header.of_model("rope.scaling.type") or "none"
    factor = header.of_model("rope.scaling.factor") or 1.0
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    raise CannotConvert(f"the rotary embedding is {kind}, which is not converted from GGUF")


def _llama3(divisors: np.ndarray[Any, Any], theta: float) -> dict[str, Any]:
    """The llama3 rope_scaling for the factors by which GGUF divides each frequency."""
    factor = round(float(divisors.max()), 4)
    parameters = {
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LLAMA3_LOW,
        "high_freq_factor": LLAMA3_HIGH,
        "original_max_position_embeddings": LLAMA3_CONTEXT,
    }
    frequencies = theta ** -(np.arange(len(divisors), dtype=np.int64) / len(divisors))
    turns = LLAMA3_CONTEXT * frequencies / (2 * math.pi)
    share = np.clip((turns - LLAMA3_LOW) / (LLAMA3_HIGH - LLAMA3_LOW), 0, 1)
    if not np.allclose(divisors, 1 / ((1 - share) / factor + share), rtol=1e-3):
        raise CannotConvert("the frequencies of the rotary embedding follow no rule that is known here")
    return parameters
