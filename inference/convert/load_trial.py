"""A checked folder read by transformers as a load would, but for the weights' bytes: does it fit together?

So a model that can never be loaded is refused at import, not at its first request.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig

from inference.checkpoints import context_length, sampling_defaults
from inference.checkpoints.model_kinds import is_image_text_to_text
from inference.models.generator import model_class, read_config, read_model
from inference.models.loader import quantization_of


def trial_facts(folder: Path) -> dict[str, Any]:
    """Facts that need a trial load of the files. Raises `CannotLoad`."""
    logging.captureWarnings(True)
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    config = read_config(folder)
    model_class(config)
    if quantization_of(config) is None:  # ours are written, and loaded, by one piece of code
        _fit(folder, config)
    context = context_length.of_folder(config, folder)
    found: dict[str, Any] = {
        "max_model_len": context.tokens,
        "sampling": sampling_defaults.of_folder(folder),  # empty: they name none
    }
    if context.source != "config":
        found["context_from"] = context.source
    if hasattr(config, "vision_config") or is_image_text_to_text(config.model_type):
        found["is_text_of_images"] = True
    return found


def _fit(folder: Path, config: PretrainedConfig) -> None:
    """Every weight that the model needs is there, in its shape; on a device that holds no bytes."""
    with torch.inference_mode():
        read_model(folder, config, dtype="auto", device_map={"": "meta"})
