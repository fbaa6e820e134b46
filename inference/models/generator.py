"""Reads configs and models by transformers' text generation classes; their errors become `CannotLoad`."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    PretrainedConfig,
)

from inference.checkpoints.model_folder import CannotLoad, NotServed, TooLittleMemory
from inference.checkpoints.model_kinds import PICTURES, TRANSLATOR
from inference.models.default_dtype import thread_local_default_dtype
from inference.protocol.errors import RequestRejected
from inference.quantization.errors import CannotQuantize

logger = logging.getLogger(__name__)

NO_MEMORY = "there is too little memory for the weights: unload another revision, or quantize this one"


def read_config(folder: Path) -> PretrainedConfig:
    """config.json as transformers understands it. Raises `CannotLoad`."""
    with library_errors(
        f"config.json is not one that transformers {transformers.__version__} knows: a newer model may need"
        " a newer transformers; if you wrote it, compare it with the original's"
    ):
        return AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def model_class(config: PretrainedConfig) -> Any:
    """Of what writes text; for models that see images as well, the class of which the text is used.

    Raises `NotServed`.
    """
    if type(config) in MODEL_FOR_CAUSAL_LM_MAPPING:
        return AutoModelForCausalLM
    if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        raise NotServed(f"{config.model_type}: {PICTURES}")
    if getattr(config, "is_encoder_decoder", False):
        raise NotServed(f"{config.model_type}: {TRANSLATOR}")
    forward = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)].forward
    needed = inspect.signature(forward).parameters.get("pixel_values")
    if needed is not None and needed.default is inspect.Parameter.empty:
        raise NotServed(f"{config.model_type}: {PICTURES}")
    return AutoModelForImageTextToText


def read_model(folder: Path, config: PretrainedConfig, **options: Any) -> Any:
    """The model with all its weights. Raises `CannotLoad` where some are missing or do not fit."""
    auto = model_class(config)
    not_a_model = (
        "transformers cannot make a model of these weights: config.json and the safetensors may be of"
        " different models, or incomplete; fetch or save them anew"
    )
    with library_errors(not_a_model), thread_local_default_dtype():
        model, report = auto.from_pretrained(
            folder,
            config=config,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
    if missing := sorted(report["missing_keys"]):  # filled with random numbers, which only a log says
        raise CannotLoad(
            f"the weights lack {missing[0]}{_and_more(len(missing) - 1)}: the files are incomplete, or of"
            " another kind of model than config.json says"
        )
    return model


@contextmanager
def library_errors(what_to_do: str) -> Iterator[None]:
    """Logs any exception of a library, and raises `CannotLoad` with `what_to_do` in its place."""
    try:
        yield
    except RequestRejected:
        raise
    except CannotQuantize as error:
        raise CannotLoad(str(error)) from error
    except Exception as error:
        if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in str(error):
            raise TooLittleMemory(NO_MEMORY) from error
        logger.exception("a library refused a model")
        raise CannotLoad(
            f"{what_to_do} ({type(error).__name__}; the server's log has the details)"
        ) from error


def _and_more(number: int) -> str:
    return f" and {number} more" if number > 0 else ""
