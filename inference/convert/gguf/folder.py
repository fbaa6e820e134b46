"""A GGUF file becomes a folder of safetensors with its tokenizer, chat template and generation settings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig, PretrainedConfig

from inference.convert.gguf.config import family_of, read_config
from inference.convert.gguf.header import CannotConvert, GgufHeader
from inference.convert.gguf.parts import part_paths
from inference.convert.gguf.tokenizer import build_tokenizer
from inference.convert.gguf.vocabulary import end_token_ids
from inference.convert.gguf.weights import Progress, write_weights


def convert_gguf(
    header: GgufHeader, folder: Path, *, dtype: torch.dtype, progress: Progress = lambda part: None
) -> None:
    """Dequantizes a model whose header has been checked into `folder`. Raises `CannotConvert`."""
    try:
        _convert(header, folder, dtype, progress)
    except (CannotConvert, OSError):
        raise
    except Exception as error:  # libraries raise anything where a file is not as they expect it
        raise CannotConvert(
            f"the file is not as {header.architecture} files are expected to be"
            f" ({type(error).__name__}: {error}): take the model's folder of safetensors"
        ) from error


def _convert(header: GgufHeader, folder: Path, dtype: torch.dtype, progress: Progress) -> None:
    folder.mkdir(exist_ok=True)
    family = family_of(header)
    tokenizer = build_tokenizer(header)
    if family.as_a_whole:
        config, made = _by_transformers(header, folder, dtype)
    else:
        config = read_config(header)
        made = write_weights(header, config, folder / "model.safetensors", dtype=dtype, progress=progress)
        config.architectures = [made.__name__]
        config.dtype = dtype
        config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    _save_generation(config, end_token_ids(header), folder)


def _save_generation(config: PretrainedConfig, ends: list[int], folder: Path) -> None:
    generation = GenerationConfig.from_model_config(config)
    generation.eos_token_id = ends if len(ends) > 1 else next(iter(ends), None)
    generation.save_pretrained(folder)


def _by_transformers(
    header: GgufHeader, folder: Path, dtype: torch.dtype
) -> tuple[PretrainedConfig, type[Any]]:
    """All of the weights in memory at once, for architectures whose tensors it takes apart itself."""
    paths = part_paths(header)
    if len(paths) > 1:
        raise CannotConvert(f"{header.architecture} is not converted from several files: join them first")
    model, report = AutoModelForCausalLM.from_pretrained(
        str(paths[0].parent),
        gguf_file=paths[0].name,
        local_files_only=True,
        dtype=dtype,
        output_loading_info=True,
    )
    if report["missing_keys"]:  # transformers fills them with random numbers
        raise CannotConvert(f"the file lacks {sorted(report['missing_keys'])[0]}")
    _forget_gguf(model)
    model.save_pretrained(folder)
    return model.config, type(model)


def _forget_gguf(model: Any) -> None:
    """Without this, `save_pretrained` refuses: it takes the dequantized model for a quantized one."""
    model.hf_quantizer = None
    model.is_quantized = False
    model.config.quantization_config = None
    del model.config.quantization_config
    model.config.architectures = [type(model).__name__]
