"""A folder of float weights becomes a folder of quantized ones, with figures of what that costs."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from inference.checkpoints.model_folder import check_folder
from inference.convert.importance import importance
from inference.models.generator import read_config, read_model
from inference.quantization.int4 import Int4Config
from inference.quantization.layer_error import weight_errors
from inference.quantization.registry import quantization_config


def quantize_folder(source: Path, folder: Path, *, name: str, quantize_head: bool = False) -> dict[str, Any]:
    """Writes `source`, quantized by the method `name`, into `folder`; returns the error figures."""
    config = quantization_config(name, quantize_head=quantize_head)
    if isinstance(config, Int4Config):
        config.importance = importance(_load(source))
    quantized = _load(source, quantization_config=config)
    exact = _load(source)
    quantized.save_pretrained(folder)
    for file, path in check_folder(source).items():
        is_weights = file.endswith((".safetensors", ".safetensors.index.json"))
        if not is_weights and not (folder / file).exists():
            (folder / file).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / file)
    errors = weight_errors(exact, quantized)
    worst = max(errors, key=lambda layer: layer.weight_error)
    return {
        "method": name,
        "num_layers": len(errors),
        "mean_weight_error": sum(layer.weight_error for layer in errors) / len(errors),
        "worst_layer": worst.name,
        "worst_weight_error": worst.weight_error,
    }


def _load(folder: Path, **options: Any) -> Any:
    return read_model(folder, read_config(folder), dtype="auto", **options).eval()
