"""A few layers of a model's own shape, and a part of its head, made of random numbers to time decode steps.

Layers are alike, so the time of some stands for all; more than a CPU's cache holds, because in a model the
weights of each layer come from memory. They are prepared as the loader prepares the model's own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PretrainedConfig
from transformers.quantizers import AutoHfQuantizer, AutoQuantizationConfig

from inference.attention import base
from inference.attention.base import AttentionMetadata, SequenceSlice
from inference.attention.cpu import CpuAttention
from inference.attention.reference import ReferenceAttention
from inference.config import EngineConfig
from inference.execution.host_memory import free_host_bytes
from inference.execution.kv_cache import KVCache, pool_dtype
from inference.fused import bf16_linear
from inference.fused.cpu import CpuFusedModel
from inference.fused.supported import can_fuse
from inference.models.generator import model_class
from inference.models.loader import prepare_weights, quantization_of
from inference.models.supported import has_experts
from inference.quantization.registry import quantization_config

LEAST_WEIGHTS = 32_000_000  # of the layers: 64 MB in 16 bits
MOST_HEAD_WEIGHTS = 64_000_000
CONTEXT = 256  # tokens that each sequence of a step has behind it
MOST_ROWS = 8
MEMORY_SHARE = 0.25  # of what is free, that one probe may take
SPREAD = 0.02  # of the random weights


class TooLarge(Exception):
    """There is no room to measure beside what will be loaded."""


def read_as(
    model_config: PretrainedConfig,
    config: EngineConfig,
    dtype: torch.dtype,
    files: Iterable[Path],
    *,
    is_batched: bool,
) -> torch.dtype:
    """The dtype in which matrices would be kept by a model that computes in `dtype`."""
    is_known = is_batched and config.fused_layers and dtype == torch.float32
    keeps_bf16 = is_known and bf16_linear.can_load_as_bf16(model_config.architectures, files)
    return torch.bfloat16 if keeps_bf16 else dtype


class Probe:
    """A way to compute that can be timed. Raises `TooLarge`, or whatever a library does."""

    @torch.inference_mode()
    def __init__(
        self,
        model_config: PretrainedConfig,
        config: EngineConfig,
        dtype: torch.dtype,
        kept_as: torch.dtype,
        *,
        is_batched: bool,
    ) -> None:
        text = model_config.get_text_config()
        vocab = min(text.vocab_size, max(1, MOST_HEAD_WEIGHTS // text.hidden_size))
        num_layers = _num_layers(model_config, vocab)
        self._share_of_layers = text.num_hidden_layers / num_layers
        self._share_of_head = text.vocab_size / vocab
        short = shortened(model_config, num_layers, vocab)
        if is_batched:
            base.register()
            short._attn_implementation = base.NAME
            if has_experts(short):
                short._experts_implementation = "grouped_mm"
        self._model = _model(short, model_config, config, kept_as)
        if kept_as != dtype:
            bf16_linear.upcast_or_pack(self._model)
        is_fused = is_batched and config.fused_layers
        prepare_weights(self._model, config, torch.device("cpu"), is_fused=is_fused)
        is_fused = is_fused and can_fuse(self._model)
        self._fused = CpuFusedModel(self._model) if is_fused else None
        self._head: Any = self._fused.head if self._fused else self._model.get_output_embeddings()
        self._rows = torch.full((MOST_ROWS, text.hidden_size), SPREAD, dtype=dtype, device="cpu")
        self._cache = _pool(short, config, dtype) if is_batched else None
        self._new_attention = ReferenceAttention if config.attention == "reference" else CpuAttention

    @torch.inference_mode()
    def run(self, num_rows: int) -> None:
        ids = torch.zeros(num_rows, dtype=torch.int64, device="cpu")
        if self._cache is None:
            self._model(input_ids=ids[:, None], use_cache=False)
            return
        metadata = _metadata(num_rows, self._cache.block_size)
        positions = torch.full((num_rows,), CONTEXT - 1, dtype=torch.int64, device="cpu")
        attention = self._new_attention(self._cache, metadata)
        if self._fused is not None:
            self._fused(ids, positions, logit_rows=None, attention=attention)
        else:
            self._model(
                input_ids=ids[None],
                position_ids=positions[None],
                use_cache=False,
                attention_backend=attention,
            )

    @torch.inference_mode()
    def run_head(self, num_rows: int) -> None:
        self._head(self._rows[:num_rows])

    def whole(self, seconds: float, head_seconds: float) -> float:
        layers = max(0.0, seconds - head_seconds)
        return layers * self._share_of_layers + head_seconds * self._share_of_head


def shortened(model_config: PretrainedConfig, num_layers: int, vocab_size: int) -> PretrainedConfig:
    """The same with fewer layers, the first ones, and fewer tokens. What else it holds is not built of it."""
    short = deepcopy(model_config)
    for config in _parts(short):
        whole = getattr(config, "num_hidden_layers", None)
        if whole is None:
            continue
        for name, value in list(vars(config).items()):
            if isinstance(value, list | tuple) and len(value) == whole and whole > num_layers:
                setattr(config, name, value[:num_layers])
        config.num_hidden_layers = min(whole, num_layers)
    text = short.get_text_config()
    text.vocab_size, text.pad_token_id = vocab_size, None
    return short


def _parts(config: PretrainedConfig) -> Iterator[PretrainedConfig]:
    yield config
    for name in config.sub_configs:
        if isinstance(part := getattr(config, name, None), PretrainedConfig):
            yield part


def _num_layers(model_config: PretrainedConfig, vocab: int) -> int:
    """So many that their weights do not all stay in a cache. Raises `TooLarge` where one is too much."""
    most: int = model_config.get_text_config().num_hidden_layers
    model = _on_meta(shortened(model_config, 1, vocab))
    ends = (model.get_input_embeddings(), model.get_output_embeddings())
    around = {id(parameter): parameter.numel() for end in ends if end for parameter in end.parameters()}
    size = sum(one.numel() for one in model.parameters() if id(one) not in around)
    num_layers = min(most, max(1, -(-LEAST_WEIGHTS // max(1, size))))
    floats = num_layers * size + sum(around.values())
    if 4 * floats > MEMORY_SHARE * free_host_bytes():
        raise TooLarge(f"{num_layers} of its layers take {4 * floats / 2**20:.0f} MiB")
    return num_layers


def _on_meta(config: PretrainedConfig) -> Any:
    """A model without memory: neither default dtypes nor weights of others are touched."""
    with torch.device("meta"):
        return model_class(config)._model_mapping[type(config)](config)


def _model(
    short: PretrainedConfig, model_config: PretrainedConfig, config: EngineConfig, dtype: torch.dtype
) -> Any:
    model = _on_meta(short).to(dtype)
    quantizer = _quantizer(model_config, config)
    if quantizer is not None:
        quantizer._process_model_before_weight_loading(model)
    tile = torch.randn(2**20, dtype=torch.float32, device="cpu").mul_(SPREAD)
    model._apply(lambda tensor: _filled(tensor, tile))
    model.tie_weights()
    if quantizer is not None:
        model = quantizer._process_model_after_weight_loading(model)
    return model


def _quantizer(model_config: PretrainedConfig, config: EngineConfig) -> Any:
    found: Any = getattr(model_config, "quantization_config", None)
    if quantization_of(model_config) is not None:
        stored = AutoQuantizationConfig.from_dict(found) if isinstance(found, dict) else found
        return AutoHfQuantizer.from_config(stored, pre_quantized=True)
    if config.quantization is None:
        return None
    wanted = quantization_config(config.quantization, quantize_head=config.quantize_head)
    return AutoHfQuantizer.from_config(wanted, pre_quantized=True)


def _filled(tensor: Tensor, tile: Tensor) -> Tensor:
    """The same on the CPU: random floats, or small whole numbers."""
    if not tensor.is_floating_point() or tensor.itemsize == 1:
        return torch.ones(tensor.shape, dtype=torch.int8, device="cpu").to(tensor.dtype)
    filled = torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")
    flat = filled.view(-1)
    for start in range(0, len(flat), len(tile)):
        part = flat[start : start + len(tile)]
        part.copy_(tile[: len(part)])
    return filled


def _pool(short: PretrainedConfig, config: EngineConfig, dtype: torch.dtype) -> KVCache:
    blocks = MOST_ROWS * -(-CONTEXT // config.block_size)
    return KVCache(
        short.get_text_config(),
        num_blocks=blocks,
        block_size=config.block_size,
        dtype=pool_dtype(config, dtype),
        device=torch.device("cpu"),
    )


def _metadata(num_rows: int, block_size: int) -> AttentionMetadata:
    each = -(-CONTEXT // block_size)
    tables: list[Sequence[int]] = [range(row * each, (row + 1) * each) for row in range(num_rows)]
    slices = [SequenceSlice(row, 1, CONTEXT, table) for row, table in enumerate(tables)]
    slots = [row * each * block_size + CONTEXT - 1 for row in range(num_rows)]
    return AttentionMetadata(slices, torch.tensor(slots, dtype=torch.int64, device="cpu"))
