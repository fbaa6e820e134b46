"""A model without tensors: it keeps what is written to each slot; its next token is a hash of what it reads.

So a wrong block, a stale slot or a block written while shared shows as a wrong token.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, field
from typing import Any

from inference.config import EngineConfig
from inference.protocol.events import Delta, Event, Finish
from inference.protocol.requests import GenerateRequest, Owner, Sampling
from inference.protocol.stats import ModelCard
from inference.scheduling.batch_invariance import ORDINARY, ChunkPolicy
from inference.scheduling.engine import Engine
from inference.scheduling.interfaces import Sampled
from inference.scheduling.sequence import PENDING
from inference.scheduling.speculation import Speculation
from inference.scheduling.step_input import SamplingInput, StepInput
from inference.scheduling.step_loop import AsyncStepRunner

VOCAB_SIZE = 100
EOS = 0


def next_token(token_ids: Iterable[int]) -> int:
    """What the model says after these tokens."""
    digest = hashlib.sha256(repr(list(token_ids)).encode()).digest()
    return int.from_bytes(digest[:4], "big") % VOCAB_SIZE


def repeating(token_ids: list[int]) -> int:
    """What a model says that mostly repeats its last three tokens, so that drafts are often right."""
    said = next_token(token_ids)
    return said if said % 8 == 0 or len(token_ids) < 3 else token_ids[-3]


def oracle(
    prompt: Iterable[int],
    *,
    max_tokens: int,
    ignore_eos: bool = True,
    says: Callable[[list[int]], int] = next_token,
) -> list[int]:
    """The output of a request that has the model to itself."""
    token_ids = list(prompt)
    output: list[int] = []
    while len(output) < max_tokens:
        token_id = says(token_ids)
        token_ids.append(token_id)
        output.append(token_id)
        if token_id == EOS and not ignore_eos:
            break
    return output


class Broken(BaseException):
    """A promise of the engine's was broken: no `Exception`, so that the engine cannot take it for a fault."""


class OutOfMemoryError(RuntimeError):
    """Named as torch names its own."""


@dataclass
class FakeRunner:
    """Slots hold `(position, token)`. `faults` may raise before a step is run."""

    num_blocks: int = 16
    block_size: int = 4
    faults: Callable[[StepInput], None] | None = None
    says: Callable[[list[int]], int] = next_token
    steps: list[StepInput] = field(default_factory=list)
    shared_blocks: Callable[[], set[int]] = set
    slots: dict[int, tuple[int, int]] = field(default_factory=dict)
    last_tokens: dict[int, int] = field(default_factory=dict)  # by table, which the host has not read
    zeroed: list[int] = field(default_factory=list)

    def zero_blocks(self, block_ids: Iterable[int]) -> None:
        if self.shared_blocks() & set(block_ids):
            raise Broken("a shared block was wiped")
        self.zeroed += block_ids

    def run(self, step: StepInput) -> list[tuple[str, int]]:
        """Whose token is chosen, and which."""
        if self.faults is not None:
            self.faults(step)
        self.steps.append(step)
        shared = self.shared_blocks()
        logits = []
        token_ids = iter(step.token_ids.tolist())
        columns = zip(step.request_ids, step.table_ids, step.block_tables, strict=True)
        for index, (request_id, table_id, table) in enumerate(columns):
            for position in range(step.starts[index], step.ends[index]):
                if table[position // self.block_size] in shared:
                    raise Broken("a shared block was written")
                token_id = next(token_ids)
                if token_id == PENDING:
                    token_id = self.last_tokens[table_id]
                self.slots[self._slot(table, position)] = (position, token_id)
            if step.samples[index]:
                logits.append((request_id, self.says(self._read(table, step.ends[index]))))
        return logits

    def _slot(self, table: Seq[int], position: int) -> int:
        return table[position // self.block_size] * self.block_size + position % self.block_size

    def _read(self, table: Seq[int], end: int) -> list[int]:
        read = [self.slots[self._slot(table, position)] for position in range(end)]
        if [position for position, _ in read] != list(range(end)):
            raise Broken("a slot of another position was read")
        return [token_id for _, token_id in read]


@dataclass
class FakeLaunched:
    tokens: list[int | None]

    def read(self) -> list[int | None]:
        return self.tokens


@dataclass
class FakeLauncher:
    """Computes at once and tells when it is asked, as a device whose steps keep their order would."""

    runner: FakeRunner
    sampler: FakeSampler
    num_launched: int = 0

    def takes(self, step: StepInput) -> bool:
        return all(params.logprobs is None for params in step.sampling.params)

    def launch(self, step: StepInput) -> FakeLaunched:
        sampled = self.sampler.sample(self.runner.run(step), step.sampling)
        self.num_launched += 1
        table_ids = [one for one, samples in zip(step.table_ids, step.samples, strict=True) if samples]
        for table_id, outcome in zip(table_ids, sampled, strict=True):
            self.runner.last_tokens[table_id] = EOS if outcome.token_id is None else outcome.token_id
        return FakeLaunched([outcome.token_id for outcome in sampled])


@dataclass
class FakeSampler:
    """Takes the token that the model says. Requests named in `non_finite` and `raising` go wrong."""

    non_finite: set[str] = field(default_factory=set)
    raising: set[str] = field(default_factory=set)

    def sample(self, logits: Any, sampling: SamplingInput) -> list[Sampled]:
        assert len(logits) == len(sampling.params) == len(sampling.positions)
        if any(request_id in self.raising for request_id, _ in logits):
            raise ValueError("the sampler cannot do this row")
        return [Sampled(None if name in self.non_finite else token_id) for name, token_id in logits]


class FakeDetokenizer:
    """Each token is `<id>`; one stop string at most is looked for, nothing is held back."""

    def __init__(self, sampling: Sampling, prompt: Seq[int] = ()) -> None:
        self.matched_stop: str | None = None
        self.stop = sampling.stop
        self.held = ""

    def push(self, token_ids: list[int]) -> str:
        text = self.held + "".join(f"<{token_id}>" for token_id in token_ids)
        self.held = ""
        for stop in self.stop:
            if stop in text:
                self.matched_stop = stop
                return text[: text.index(stop)]
        return text

    def flush(self) -> str:
        held, self.held = self.held, ""
        return held


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Stream:
    """What one request's reader saw."""

    events: list[Event] = field(default_factory=list)

    @property
    def token_ids(self) -> list[int]:
        return [t for event in self.events if isinstance(event, Delta) for t in event.token_ids]

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, Delta))

    @property
    def finish(self) -> Finish:
        (finish,) = [event for event in self.events if isinstance(event, Finish)]
        assert self.events[-1] is finish
        return finish


CARD = ModelCard(
    revision="fake",
    architecture="FakeForCausalLM",
    max_model_len=64,
    vocab_size=VOCAB_SIZE,
    batching=True,
    quantization=None,
    dtype="none",
    device="cpu",
    weight_bytes=0,
    has_chat_template=False,
)


@dataclass
class Bench:
    """An engine over the fake model, with a clock of its own."""

    engine: Engine
    runner: FakeRunner
    sampler: FakeSampler
    clock: Clock

    def submit(
        self, request_id: str, prompt: Iterable[int], *, salt: str = "a", owner: str = "owner", **request: Any
    ) -> Stream:
        stream = Stream()
        sampling = request.pop("sampling", Sampling(max_tokens=4, ignore_eos=True))
        self.engine.submit(
            GenerateRequest(
                request_id=request_id,
                revision="fake",
                token_ids=tuple(prompt),
                owner=Owner(owner, salt),
                sampling=sampling,
                **request,
            ),
            stream.events.append,
        )
        return stream

    def run(self, max_steps: int = 1000) -> int:
        """Step until nothing can go on; how many steps did something."""
        for number in range(max_steps):
            if not self.engine.step():
                return number
        raise AssertionError("the engine does not come to rest")


def make_bench(
    *,
    num_blocks: int = 16,
    block_size: int = 4,
    faults: Callable[[StepInput], None] | None = None,
    detokenizer_factory: Callable[[Sampling, Seq[int]], Any] = FakeDetokenizer,
    overlaps: bool = False,
    chunk_policy: ChunkPolicy = ORDINARY,
    num_draft_tokens: int = 0,
    says: Callable[[list[int]], int] = next_token,
    **config: Any,
) -> Bench:
    runner = FakeRunner(num_blocks=num_blocks, block_size=block_size, faults=faults, says=says)
    sampler = FakeSampler()
    clock = Clock()
    speculation = Speculation(num_draft_tokens=num_draft_tokens, row_cost=0.0) if num_draft_tokens else None
    config.setdefault("max_batch_tokens", 32)
    engine = Engine(
        EngineConfig(block_size=block_size, **config),
        card=CARD,
        eos_token_ids=frozenset({EOS}),
        runner=runner,
        sampler=sampler,
        detokenizer_factory=detokenizer_factory,
        speculation=speculation,
        step_runner=AsyncStepRunner(runner, sampler, FakeLauncher(runner, sampler)) if overlaps else None,
        clock=clock,
        chunk_policy=chunk_policy,
    )
    runner.shared_blocks = lambda: {
        block.id for block in engine.pool.blocks if block.num_references > 1 or block.hash is not None
    }
    return Bench(engine, runner, sampler, clock)
