"""An engine whose device only keeps time: the real loop, scheduler, detokenizer and thread over steps that
take as long as a GPU's would, so that everything between the engine and the socket can be measured without
one.

`stub.json` in the revision's folder sets it: {"step_seconds": 0.02, "host_seconds": 0.001}. At its end it
writes `steps.json` into the data directory.
"""

from __future__ import annotations

import json
import threading
import time
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import SimpleNamespace
from typing import Any

from inference.config import EngineConfig, PlacementConfig, RevisionSpec
from inference.host import prompt_settings
from inference.placements.inprocess import loader
from inference.placements.inprocess.placement import InProcess
from inference.prompt_process.queue import PromptQueue
from inference.protocol.events import Event
from inference.protocol.requests import GenerateRequest, TokenizedPrompt, TokenizeRequest
from inference.protocol.stats import LoadProgress, ModelCard
from inference.scheduling.engine import Engine
from inference.scheduling.step_input import StepInput
from inference.scheduling.step_loop import AsyncStepRunner
from inference.text.detokenizer import StreamDetokenizer
from inference.text.vocabulary import TokenBytes
from tests.inference.tiny import VOCAB_SIZE, tiny_tokenizer
from tests.stub_engine import steering

NUM_BLOCKS, BLOCK_SIZE = 32768, 16
MAX_MODEL_LEN = 8192
MAX_BATCH_TOKENS = 4096
PREFILL_SECONDS = 1 / 45_000  # a token
NUM_CALLS = 30  # into the device's library for each step; each lets go of the interpreter's lock
PAYLOAD = bytes(8192)
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"


class Words(TokenBytes):
    """Each token is a short word."""

    def __init__(self) -> None:
        self.is_exact, self.strips_first_space, self.drops_first_spaces = True, False, False
        self.special_ids = frozenset()
        self._texts = {}

    def raw(self, token_id: int) -> bytes:
        return b" w%d" % token_id


@dataclass
class Log:
    """What `steps.json` will hold: times are time.monotonic(), in seconds."""

    thread: int = 0  # of the engine, as the kernel numbers it
    submitted: list[float] = field(default_factory=list)
    steps: list[tuple[float, float, float, int]] = field(
        default_factory=list
    )  # launched, ready, noticed, tokens


@dataclass
class PacedStep:
    """A step that is ready at a moment."""

    launched_at: float
    ready_at: float
    tokens: list[int | None]
    log: Log

    def read(self) -> list[int | None]:
        if (rest := self.ready_at - time.monotonic()) > 0:
            time.sleep(rest)
        self.log.steps.append((self.launched_at, self.ready_at, time.monotonic(), len(self.tokens)))
        return self.tokens


class PacedDevice:
    """Begins a step when it is launched and the one before has ended, as a device's queue does."""

    def __init__(self, log: Log, *, step_seconds: float, host_seconds: float) -> None:
        self._log = log
        self._step_seconds = step_seconds
        self._host_seconds = host_seconds
        self._busy_until = 0.0

    def takes(self, step: StepInput) -> bool:
        return True

    def launch(self, step: StepInput) -> PacedStep:
        self._log.thread = threading.get_native_id()
        self._work()
        now = time.monotonic()
        num_prompt_tokens = sum(length for length in step.lengths if length > 1)
        seconds = self._step_seconds + num_prompt_tokens * PREFILL_SECONDS
        self._busy_until = max(now, self._busy_until) + seconds
        tokens: list[int | None] = [
            end * 7 % VOCAB_SIZE for end, samples in zip(step.ends, step.samples, strict=True) if samples
        ]
        return PacedStep(now, self._busy_until, tokens, self._log)

    def _work(self) -> None:
        """What launching costs the host, in calls that let go of the lock now and then."""
        began, share = time.thread_time(), self._host_seconds / NUM_CALLS
        for number in range(1, NUM_CALLS + 1):
            zlib.crc32(PAYLOAD)
            while time.thread_time() - began < number * share:
                pass


class PacedRunner:
    """Holds nothing."""

    num_blocks, block_size = NUM_BLOCKS, BLOCK_SIZE

    def run(self, step: StepInput) -> Any:
        raise AssertionError("every step is launched")

    def zero_blocks(self, block_ids: Sequence[int]) -> None:
        """There is nothing to wipe."""


class PacedSampler:
    """Never asked: the device samples."""

    def sample(self, logits: Any, sampling: Any) -> list[Any]:
        raise AssertionError("every step is launched")


class PacedEngine(Engine):
    """Writes down when requests arrive."""

    log: Log

    def submit(self, request: GenerateRequest, on_event: Callable[[Event], None]) -> None:
        self.log.submitted.append(time.monotonic())
        super().submit(request, on_event)


def engine_of(spec: RevisionSpec, log: Log) -> PacedEngine:
    steered = steering(spec)
    device = PacedDevice(
        log,
        step_seconds=steered.get("step_seconds", 0.02),
        host_seconds=steered.get("host_seconds", 0.001),
    )
    card = ModelCard(
        revision=spec.revision,
        architecture="paced",
        max_model_len=MAX_MODEL_LEN,
        vocab_size=VOCAB_SIZE,
        batching=True,
        quantization=None,
        dtype="float32",
        device="cpu",
        weight_bytes=0,
        has_chat_template=True,
    )
    engine = PacedEngine(
        EngineConfig(max_batch_tokens=MAX_BATCH_TOKENS, prefix_caching=False),
        card=card,
        eos_token_ids=frozenset(),
        runner=PacedRunner(),
        sampler=PacedSampler(),
        step_runner=AsyncStepRunner(PacedRunner(), PacedSampler(), device),
        detokenizer_factory=partial(StreamDetokenizer, Words()),
    )
    engine.log = log
    return engine


class PacedPlacement(InProcess):
    """The real placement; what it loads keeps time."""

    def __init__(self, config: PlacementConfig) -> None:
        super().__init__(config)
        self._log = Log()
        loader.load = self._load_paced  # type: ignore[assignment]

    def _load_paced(
        self, spec: RevisionSpec, progress: Callable[[LoadProgress], None], placement: PlacementConfig
    ) -> Any:
        tokenizer = tiny_tokenizer()
        tokenizer.chat_template = TEMPLATE
        folder = placement.data_dir / "tokenizer"
        tokenizer.save_pretrained(folder)
        queue = PromptQueue(spec.revision, folder, prompt_settings(placement))
        queue.open()

        async def tokenize_prompt(request: TokenizeRequest) -> TokenizedPrompt:
            return await queue.tokenize(request, vocab_size=VOCAB_SIZE, max_model_len=MAX_MODEL_LEN)

        return SimpleNamespace(engine=engine_of(spec, self._log), tokenize=tokenize_prompt, prompts=queue)

    async def stop(self) -> None:
        await super().stop()
        file = self.config.data_dir / "steps.json"
        file.write_text(json.dumps(vars(self._log)))
