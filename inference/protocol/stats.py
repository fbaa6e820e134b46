"""Device, model cards, statistics of an engine, and the progress of a load."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from inference.protocol.events import WaitReason


@dataclass(frozen=True, slots=True)
class Device:
    """Where models are loaded, as it was when the placement started."""

    name: str  # "cpu" or "cuda"
    dtype: str  # what "auto" counts as on it; on a CPU each model's own steps decide, when it is loaded
    total_bytes: int
    free_bytes: int  # on a machine, of its control group where that has a limit
    keeps_bfloat16: bool = False  # matrices of such files, beside float32 activations


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a revision can be asked for, which depends on its placement."""

    can_grant: bool = True  # output tokens slice by slice; where not, it gets all at once


@dataclass(frozen=True, slots=True)
class ModelCard:
    """What a served revision can do."""

    revision: str
    architecture: str
    max_model_len: int
    vocab_size: int
    batching: bool  # False: the sequential engine serves it, one request at a time
    quantization: str | None
    dtype: str
    device: str
    weight_bytes: int
    has_chat_template: bool
    note: str = ""  # why it is served the way it is, where that needs a word
    kv_bytes: int = 0  # the KV pool
    memory_bytes: int = 0  # measured after the load: weights and KV pool, and on a GPU what its steps need
    sampling: Mapping[str, float] = field(default_factory=dict)  # its own, where a request is silent
    why_dtype: str = ""  # what the dtype was chosen by, where the settings left that open


@dataclass(frozen=True, slots=True)
class PromptStats:
    """A snapshot of a revision's prompt process, which runs its chat template and tokenizer."""

    num_waiting: int = 0  # prompts that are being tokenized, or wait for that
    oldest_since: float | None = None  # time.monotonic(): when the first of them came
    due_at: float | None = None  # time.monotonic(): when the one in work is done, or is ended
    num_ended: int = 0  # processes that overran or died, since the load
    error: str = ""  # why prompts cannot be prepared; "" where they can


@dataclass(frozen=True, slots=True)
class RevisionStats:
    """A snapshot of one engine; reading it never waits for the loop."""

    revision: str
    num_running: int = 0
    num_waiting: int = 0
    num_blocks: int = 0
    num_blocks_used: int = 0  # held by live sequences
    num_blocks_cached: int = 0  # free, but remembered by the prefix cache
    num_prefix_queries: int = 0  # prompt tokens looked up, since start
    num_prefix_hits: int = 0  # prompt tokens found, since start
    num_preemptions: int = 0
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    num_drafted_tokens: int = 0  # proposed and verified, since start
    num_accepted_tokens: int = 0  # of them, those that the model confirmed
    num_steps: int = 0
    last_step_at: float | None = None  # time.monotonic()
    last_step_seconds: float = 0.0
    has_work: bool = False
    running: tuple[str, ...] = ()  # request ids in the batch
    waits_for: WaitReason | None = None  # the queue's head, as the last step found it
    is_alive: bool = True
    error: str = ""
    prompts: PromptStats = field(default_factory=PromptStats)


@dataclass(frozen=True, slots=True)
class Stats:
    """A snapshot of a placement and all that it serves."""

    revisions: tuple[RevisionStats, ...] = ()
    is_draining: bool = False


@dataclass(frozen=True, slots=True)
class LoadProgress:
    """How far a load has come."""

    # "measuring dtypes, once", "reading weights", "planning memory", "compiling layers, once", "warming up",
    # "ready"
    stage: str
    fraction: float  # 0..1
