"""What a GGUF file says of its model and transformers does not read: put into the config, or refused.

Without it a converted model answers, only worse: Llama 3.1 would turn its heads by the wrong frequencies.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
from gguf import GGUFReader
from transformers import PretrainedConfig

# What all of Llama 3.1, 3.2 and 3.3 are published with; only the factor differs.
LLAMA3_CONTEXT, LLAMA3_LOW, LLAMA3_HIGH = 8192, 1.0, 4.0
LAYERS_OF_27B = {"gemma2": 46, "gemma3": 62}  # whose scores are scaled by another width than the head's


class CannotConvert(ValueError):
    """A GGUF file that would become another model than it is."""


def complete(config: PretrainedConfig, path: Path) -> None:
    """Add to `config`, as transformers read it, what else `path` says. Raises `CannotConvert`."""
    file = GGUFReader(path)
    architecture = str(_value(file, "general.architecture"))
    if architecture == "gpt-oss":
        return  # transformers reads all of it
    scaling = _rotary_scaling(file, architecture, config)
    if scaling:
        parameters = config.rope_parameters
        parameters.get("full_attention", parameters).update(scaling)
    if head_dim := _value(file, f"{architecture}.attention.key_length"):
        config.head_dim = head_dim
    if architecture == "phi3":
        config.sliding_window = _value(file, "phi3.attention.sliding_window") or None
    if architecture in LAYERS_OF_27B:
        is_27b = config.num_hidden_layers == LAYERS_OF_27B[architecture]
        width = config.hidden_size // config.num_attention_heads if is_27b else config.head_dim
        config.query_pre_attn_scalar = width
    if architecture == "gemma2":
        config.attn_logit_softcapping = _value(file, "gemma2.attn_logit_softcapping")
        config.final_logit_softcapping = _value(file, "gemma2.final_logit_softcapping")


def _rotary_scaling(file: GGUFReader, architecture: str, config: PretrainedConfig) -> dict[str, Any]:
    tensors = {tensor.name: tensor for tensor in file.tensors}
    if any(name.startswith("rope_factors_") for name in tensors):
        raise CannotConvert("the rotary embedding is longrope, which is not converted from GGUF")
    if "rope_freqs.weight" in tensors:
        theta = _value(file, f"{architecture}.rope.freq_base") or 10_000.0
        return _llama3(np.asarray(tensors["rope_freqs.weight"].data, dtype=np.float64).ravel(), theta)
    kind = _value(file, f"{architecture}.rope.scaling.type") or "none"
    factor = _value(file, f"{architecture}.rope.scaling.factor") or 1.0
    if kind == "none" or (kind == "linear" and factor == 1.0):
        return {}
    if kind == "linear":
        return {"rope_type": "linear", "factor": factor}
    raise CannotConvert(f"the rotary embedding is {kind}, which is not converted from GGUF")


def _llama3(divisors: np.ndarray[Any, Any], theta: float) -> dict[str, Any]:
    """GGUF says by what each frequency is divided; config.json by which rule."""
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


def _value(file: GGUFReader, key: str) -> Any:
    """None where the file does not say."""
    field = file.get_field(key)
    return None if field is None else field.contents()
