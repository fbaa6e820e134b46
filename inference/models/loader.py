"""A model folder brought to the device: weights from safetensors, tokenizer, and what must be known of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PretrainedConfig, PreTrainedTokenizerBase

from inference.attention import base
from inference.checkpoints import context_length, sampling_defaults
from inference.checkpoints.context_length import ContextLength
from inference.checkpoints.model_folder import CannotLoad, check_folder
from inference.config import EngineConfig
from inference.fused import bf16_linear, int4_blocked
from inference.fused.supported import can_fuse
from inference.fused.weight_layout import transpose_linear_weights
from inference.models.device import ChosenDtype, check_fp8, choose_attention, choose_device, choose_dtype
from inference.models.generator import library_errors, read_config, read_model
from inference.models.rotary_length import fix_rope_frequencies
from inference.models.supported import has_experts, why_not_batched, why_not_captured
from inference.protocol.stats import LoadProgress, ModelCard
from inference.quantization.linear import allow_rounding
from inference.quantization.registry import quantization_config  # its import makes quantized folders loadable
from inference.text.tokenizer import load_tokenizer
from inference.text.vocabulary import TokenBytes

NO_TOKENIZER = (
    "transformers cannot read the tokenizer: the files may be incomplete or of a form that it does not know;"
    " take tokenizer.json from the model's repository"
)


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on its device, in eval mode, with its tokenizer."""

    model: Any  # a PreTrainedModel with a language-model head
    tokenizer: PreTrainedTokenizerBase
    vocabulary: TokenBytes
    config: PretrainedConfig
    device: torch.device
    dtype: torch.dtype
    attention: str  # name of the attention implementation, where batched
    batching: bool  # False: only the sequential engine can serve it, or was asked to
    note: str  # why not batched
    max_model_len: int
    remark: str = ""  # what else people should know of how it is served
    sampling: Mapping[str, float] = field(default_factory=dict)  # its own, where a request is silent
    why_dtype: str = ""  # what the dtype was chosen by, where that was left to us

    @property
    def text_config(self) -> PretrainedConfig:
        """The language model's part of the config; the whole of it for text-only models."""
        return self.config.get_text_config()

    @property
    def why_not_captured(self) -> str:
        """Why its decode steps cannot become CUDA graphs; "" where they can, and where there are none."""
        if self.attention != "triton" or not self.batching:
            return ""
        capability = torch.cuda.get_device_capability(self.device)
        return why_not_captured(self.config, dtype=self.dtype, compute_capability=capability)

    @property
    def vocab_size(self) -> int:
        """Rows of the logits; may exceed the tokenizer's tokens by padding."""
        size: int = self.text_config.vocab_size
        return size

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        """Tokens that end a text: all that any file names, since each may know of one that others do not."""
        found: dict[int, None] = {}
        for owner in (self.model.generation_config, self.config, self.text_config, self.tokenizer):
            ids = getattr(owner, "eos_token_id", None)
            if ids is not None:
                found.update(dict.fromkeys(ids if isinstance(ids, list | tuple) else [ids]))
        return tuple(found)

    @property
    def weight_bytes(self) -> int:
        """Memory of the weights, each counted once."""
        tensors = {t.data_ptr(): t for t in (*self.model.parameters(), *self.model.buffers())}
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())

    @property
    def quantization(self) -> str | None:
        """Name of the weights' quantization, None where they are plain."""
        return quantization_of(self.config)

    def card(self, revision: str) -> ModelCard:
        """The model's public facts."""
        architectures = self.config.architectures or [type(self.model).__name__]
        return ModelCard(
            revision=revision,
            architecture=architectures[0],
            max_model_len=self.max_model_len,
            vocab_size=self.vocab_size,
            batching=self.batching,
            quantization=self.quantization,
            dtype=str(self.dtype).removeprefix("torch."),
            device=str(self.device),
            weight_bytes=self.weight_bytes,
            has_chat_template=bool(self.tokenizer.chat_template),
            note="; ".join(filter(None, (self.note or self.why_not_captured, self.remark))),
            sampling=self.sampling,
            why_dtype=self.why_dtype,
        )


def load_model(
    folder: Path,
    config: EngineConfig,
    progress: Callable[[LoadProgress], None] = lambda _: None,
    read_tokenizer: Callable[[Path], PreTrainedTokenizerBase] = load_tokenizer,
    *,
    chosen: ChosenDtype | None = None,
) -> LoadedModel:
    """Load a folder as `config` says; no network, no code of the folder. Raises `CannotLoad`.

    `chosen`: the dtype measured to be the best where `config` says "auto".
    """
    files = check_folder(folder)
    if config.num_threads is not None:
        torch.set_num_threads(config.num_threads)
    progress(LoadProgress("reading weights", 0.0))
    transformers.utils.logging.disable_progress_bar()
    model_config = read_config(folder)
    device = choose_device(config)
    dtype = chosen.dtype if chosen else choose_dtype(config, device)
    check_fp8(config, device, quantization=quantization_of(model_config))
    note = _why_sequential(model_config, config)
    can_fuse_layers = config.fused_layers and not note
    keeps_bf16 = (
        can_fuse_layers
        and (device.type, dtype) == ("cpu", torch.float32)
        and bf16_linear.can_load_as_bf16(model_config.architectures, files.values())
    )
    read_as = torch.bfloat16 if keeps_bf16 else dtype
    with ThreadPoolExecutor(1, thread_name_prefix="tokenizer") as beside:
        reading = beside.submit(read_tokenizer, folder)  # leaves Python to the weights as it parses
        model = _read_weights(folder, model_config, config, device, read_as, batching=not note)
    progress(LoadProgress("reading weights", 0.8))
    if keeps_bf16:
        bf16_linear.upcast_or_pack(model)
    prepare_weights(model, config, device, is_fused=can_fuse_layers)
    context = context_length.of_folder(model_config, folder)
    max_model_len = choose_max_model_len(context, config)
    if not note:
        fix_rope_frequencies(model, max_model_len)
    with library_errors(NO_TOKENIZER):
        tokenizer = reading.result()
    progress(LoadProgress("reading weights", 1.0))
    return LoadedModel(
        model=model,
        tokenizer=tokenizer,
        vocabulary=TokenBytes(tokenizer),
        config=model.config,
        device=device,
        dtype=dtype,
        attention=choose_attention(config, device),
        batching=not note,
        note=note,
        max_model_len=max_model_len,
        remark="" if config.max_model_len else context.remark,
        sampling=sampling_defaults.of_folder(folder) if config.sampling_defaults == "model" else {},
        why_dtype=chosen.why if chosen else "",
    )


def prepare_weights(model: Any, config: EngineConfig, device: torch.device, *, is_fused: bool) -> None:
    """Weights as the device reads them fastest, and nothing that only training needs."""
    if device.type == "cpu" and config.fused_layers:
        int4_blocked.to_blocked(model)
        bf16_linear.pack_head(model)
    if config.dtype == "auto":
        allow_rounding(model)
    model.requires_grad_(False).eval().to(device)  # what the files do not hold, such as rotary tables
    if device.type != "cpu":
        torch.cuda.empty_cache()  # of quantizing while loading: the KV pool is planned from what is free
    elif not (is_fused and can_fuse(model)):  # fusing does it as well
        transpose_linear_weights(model)


def _why_sequential(model_config: PretrainedConfig, config: EngineConfig) -> str:
    """Why requests are served one at a time; "" in batches. Raises `CannotLoad` where settings need those."""
    note = why_not_batched(model_config) if config.batching else "batching is off"
    if note and config.kv_dtype != "auto":
        raise CannotLoad(
            f"kv_dtype is set to {config.kv_dtype}, which one request at a time cannot use: {note}"
        )
    return note


def has_quantized_head(model_config: PretrainedConfig) -> bool:
    """True if config.json says that the output head is quantized."""
    found: Any = getattr(model_config, "quantization_config", None)
    return bool(found.get("quantize_head") if isinstance(found, dict) else found.quantize_head)


def quantization_of(model_config: PretrainedConfig) -> str | None:
    """The method that a config names, None where the weights are plain."""
    found: Any = getattr(model_config, "quantization_config", None)
    if not found:
        return None
    method = found.get("quant_method") if isinstance(found, dict) else found.quant_method
    return str(getattr(method, "value", method))


def choose_max_model_len(own: ContextLength, config: EngineConfig) -> int:
    """The context length served: the model's own, or less by the settings."""
    asked = config.max_model_len
    if own.source == "config" and asked is not None and asked > own.tokens:
        raise CannotLoad(f"max_model_len is {asked}, but the model's own context holds {own.tokens} tokens")
    return asked or own.tokens


def _read_weights(
    folder: Path,
    model_config: PretrainedConfig,
    config: EngineConfig,
    device: torch.device,
    dtype: torch.dtype,
    *,
    batching: bool,
) -> Any:
    base.register()
    options: dict[str, Any] = {}
    if device.type != "cpu":
        options["device_map"] = {"": device}  # straight from the files, not by way of the host's memory
    if batching:
        options["attn_implementation"] = base.NAME
        if has_experts(model_config):
            options["experts_implementation"] = "grouped_mm"  # no loop over experts on the host
    if config.quantization and quantization_of(model_config) is None:
        options["quantization_config"] = quantization_config(
            config.quantization, quantize_head=config.quantize_head
        )
    elif config.quantize_head and not has_quantized_head(model_config):
        raise CannotLoad(
            "quantize_head is asked for, but the files are quantized and their head is not:"
            " quantize the float model anew"
        )
    return read_model(folder, model_config, dtype=dtype, **options)
