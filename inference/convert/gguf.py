"""A GGUF file becomes a folder of safetensors with its tokenizer, chat template and generation settings."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from inference.convert.gguf_settings import CannotConvert, complete


def convert_gguf(path: Path, folder: Path, *, dtype: torch.dtype) -> None:
    """Dequantizes `path` into `folder`. The header must have been checked. Raises `CannotConvert`."""
    source = {
        "pretrained_model_name_or_path": str(path.parent),
        "gguf_file": path.name,
        "local_files_only": True,
    }
    config = AutoConfig.from_pretrained(**source)
    complete(config, path)
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model, report = AutoModelForCausalLM.from_pretrained(
        **source, config=config, dtype=dtype, output_loading_info=True
    )
    if report["missing_keys"]:  # transformers fills them with random numbers
        raise CannotConvert(f"the file lacks {sorted(report['missing_keys'])[0]}")
    _forget_gguf(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _forget_gguf(model: PreTrainedModel) -> None:
    """Without this, `save_pretrained` refuses: it takes the dequantized model for a quantized one."""
    model.hf_quantizer = None
    model.is_quantized = False
    model.config.quantization_config = None
    del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
