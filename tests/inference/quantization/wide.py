"""A tiny model whose linear layers have inputs enough for groups of int4."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from tests.inference.tiny import tiny_tokenizer
from tests.inference.tiny_configs import CONFIGS, SHAPE

WIDER = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2}


def wide_model(name: str, **shape: Any) -> Any:
    """Of the architecture `name`, of random weights, in float32; groups are 64 inputs, 128 of `down_proj`."""
    torch.manual_seed(0)
    config_class = type(CONFIGS[name])
    config = config_class(**(SHAPE | WIDER | shape), architectures=CONFIGS[name].architectures)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.data.normal_(0, 0.3)
    return model.eval()


def wide_folder(folder: Path, name: str = "llama", **shape: Any) -> Path:
    """Saved, with its tokenizer."""
    wide_model(name, **shape).save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder
