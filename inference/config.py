"""Settings of engines, revisions and placements, filled in by the console. Frozen, standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Device = Literal["auto", "cpu", "cuda"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Attention = Literal["auto", "reference", "cpu", "triton", "flashinfer"]
Quantization = Literal["int8", "fp8", "int4", "w8a8"]
KvDtype = Literal["auto", "fp8"]
SamplingDefaults = Literal["model", "openai"]

# Of GGUF files into folders. The first split text by GPT-2's rule, whatever rule the file named.
GGUF_CONVERTER = 2


@dataclass(frozen=True, slots=True)
class EngineConfig:
    """Settings of one engine. "auto" and None are resolved at load from the device and the model."""

    device: Device = "auto"
    dtype: Dtype = "auto"
    attention: Attention = "auto"
    batching: bool = True  # False: the sequential engine
    quantization: Quantization | None = None  # quantize while loading; a quantized folder needs no word
    quantize_head: bool = False  # the output layer with the others, where `quantization` is set
    kv_dtype: KvDtype = "auto"  # of keys and values in the pool: the dtype's own, or half of bfloat16's
    block_size: int = 16  # tokens per KV block
    num_blocks: int | None = None  # None: planned from memory and max_model_len
    max_batch_tokens: int | None = None  # token budget of one step; None: measured default of the device
    max_num_seqs: int = 256  # sequences in one step
    max_model_len: int | None = None  # None: the model's own
    max_queued_requests: int = 1024
    max_queued_tokens: int = 1_000_000  # prompt tokens waiting
    prefix_caching: bool = True
    cuda_graphs: bool = True  # decode steps replayed as one launch; on NVIDIA GPUs alone
    fused_layers: bool = True  # joined projections and fewer operations, where the family is known
    overlap: bool = True  # a step launched before the tokens of the one before are read; NVIDIA GPUs alone
    num_draft_tokens: int = 0  # of n-gram speculative decoding, a step and sequence at most; 0: off
    batch_invariant: bool = False  # tokens and log-probabilities do not depend on the batch; slower
    # What holds where a request is silent: temperature, top_p, top_k, min_p and repetition_penalty of
    # generation_config.json, or OpenAI's defaults whatever the files say.
    sampling_defaults: SamplingDefaults = "model"
    # On NVIDIA GPUs: logits as they are added up, not rounded to the dtype (on CPUs they never are).
    float32_logits: bool = False
    num_threads: int | None = None  # CPU threads of torch and compiled layers; None: all cores

    def __post_init__(self) -> None:
        for name in ("block_size", "max_num_seqs", "max_queued_requests", "max_queued_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        for name in ("num_blocks", "max_batch_tokens", "max_model_len", "num_threads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        if self.quantize_head and self.quantization is None:
            raise ValueError("quantize_head is of use with quantization, which is not set")
        if not 0 <= self.num_draft_tokens <= 16:  # drafts further ahead are hardly ever accepted
            raise ValueError(f"num_draft_tokens must be between 0 and 16, not {self.num_draft_tokens}")


@dataclass(frozen=True, slots=True)
class RevisionSpec:
    """A revision that can be loaded: its id, its files, its settings."""

    revision: str
    folder: Path  # config.json, safetensors, tokenizer files
    engine: EngineConfig = field(default_factory=EngineConfig)
    memory_bytes: int | None = None  # what it may take, weights and KV pool; None: what the device has free
    placement: str | None = None  # a name of placements.registry; None: the process's default


@dataclass(frozen=True, slots=True)
class PlacementConfig:
    """Settings of a placement, whatever it loads."""

    data_dir: Path
    prepare_seconds: float = 5.0  # of processor time, for a prompt's chat template and tokenizer
    child_variables: Mapping[str, str] | None = None  # what children see of the environment; None: all of it
