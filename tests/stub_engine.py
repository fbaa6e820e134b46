"""An engine without torch, for tests of everything around one: token i is a hash of prompt, seed and i.

A request steers it by words in its prompt: `slow` (50 ms a token), `fail-after-3`, `refuse`, `hang`,
`hang-after-3`, `queue` (300 ms in the queue), `echo` (the output is what follows that word, three
characters a token), `who` (the output is its revision's id, three characters a token), `sampled` (the output
is temperature, top_p, top_k and repetition_penalty as they reach the engine).
A file `stub.json` in a revision's folder steers its load: {"load_seconds": 2, "memory_bytes": 1000,
"error": "why it cannot be loaded", "code": "kind_not_served", "sampling": {"top_k": 5}}; it is read again at
each load.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import time
from collections.abc import AsyncIterator, Callable
from itertools import pairwise
from typing import Any

from inference.client import Cancel, EngineClient, OnEvent
from inference.config import PlacementConfig, RevisionSpec
from inference.protocol.errors import (
    ContextLengthExceeded,
    InvalidValue,
    NotReady,
    QueueFull,
    RequestRejected,
    UnknownRevision,
)
from inference.protocol.events import (
    Delta,
    EngineError,
    Event,
    Finish,
    FinishReason,
    Span,
    Timings,
    TokenLogprob,
    Usage,
    WaitReason,
)
from inference.protocol.requests import GenerateRequest, TokenizedPrompt, TokenizeRequest
from inference.protocol.stats import Device, LoadProgress, ModelCard, RevisionStats, Stats

VOCAB_SIZE = 1000
MAX_MODEL_LEN = 4096
FIRST_WORD = 256  # ids below are bytes of the prompt, ids above are words of the output
SLOW_SECONDS = 0.05
QUEUE_SECONDS = 0.3
LOAD_STEPS = 10  # news of a load that takes time
MEMORY_BYTES = 1_000_000  # of a revision that says nothing else
DEVICE = Device("cpu", "float32", total_bytes=100_000_000, free_bytes=100_000_000)
NUM_BLOCKS, BLOCK_SIZE = 128, 16


class Running:
    """One request in flight."""

    def __init__(self, request: GenerateRequest) -> None:
        self.request = request
        self.granted_tokens = request.granted_tokens
        self.is_final = False
        self.is_aborted = False
        self.is_queued = False
        self.num_produced = 0
        self.changed = asyncio.Event()
        self.loop = asyncio.get_running_loop()

    def touch(self) -> None:
        self.loop.call_soon_threadsafe(self.changed.set)


class CannotServe(RequestRejected):
    """The load failed, as its revision's folder asked for."""


def steering(spec: RevisionSpec) -> dict[str, Any]:
    file = spec.folder / "stub.json"
    return dict(json.loads(file.read_text())) if file.is_file() else {}


class StubEngine(EngineClient):
    def __init__(self, config: PlacementConfig) -> None:
        super().__init__(config)
        self._cards: dict[str, ModelCard] = {}
        self._sampling: dict[str, dict[str, float]] = {}
        self._running: dict[str, Running] = {}
        self._is_draining = False
        self._num_generated = 0
        self._num_prompt = 0

    async def start(self) -> None:
        self._is_draining = False

    def devices(self) -> tuple[Device, ...]:
        return (DEVICE,)

    async def load(self, spec: RevisionSpec, progress: Callable[[LoadProgress], None]) -> ModelCard:
        steered = steering(spec)
        for step in range(LOAD_STEPS if steered.get("load_seconds") else 0):
            progress(LoadProgress("reading weights", step / LOAD_STEPS))
            await asyncio.sleep(steered["load_seconds"] / LOAD_STEPS)
        if error := steered.get("error"):
            rejected = CannotServe(error)
            rejected.code = steered.get("code", rejected.code)
            raise rejected
        progress(LoadProgress("ready", 1.0))
        self._sampling[spec.revision] = steered.get("sampling", {})
        self._cards[spec.revision] = ModelCard(
            revision=spec.revision,
            architecture="stub",
            max_model_len=MAX_MODEL_LEN,
            vocab_size=VOCAB_SIZE,
            batching=True,
            quantization=None,
            dtype=DEVICE.dtype,
            device=DEVICE.name,
            weight_bytes=0,
            has_chat_template=True,
            memory_bytes=steered.get("memory_bytes", MEMORY_BYTES),
        )
        return self._cards[spec.revision]

    async def unload(self, revision: str) -> None:
        """As the real one: at once it takes nothing new, and what is in flight finishes first."""
        if self._cards.pop(revision, None) is None:
            return
        while any(one.request.revision == revision for one in self._running.values()):
            await asyncio.sleep(0.01)

    def models(self) -> tuple[ModelCard, ...]:
        return tuple(self._cards.values())

    async def tokenize(self, request: TokenizeRequest) -> TokenizedPrompt:
        if request.revision not in self._cards:
            raise UnknownRevision(f"{request.revision} is not loaded")
        text = request.text
        if request.messages is not None:
            text = "\n".join(message.content for message in request.messages)
        ids = tuple(text.encode()) if text is not None else request.token_ids or ()
        if not ids:
            raise InvalidValue("the prompt is empty")
        if any(not 0 <= one < VOCAB_SIZE for one in ids):
            raise InvalidValue(f"token ids must be between 0 and {VOCAB_SIZE - 1}")
        if len(ids) >= MAX_MODEL_LEN:
            raise ContextLengthExceeded(f"the prompt has {len(ids)} tokens of {MAX_MODEL_LEN}")
        return TokenizedPrompt(
            ids,
            max_output_tokens=MAX_MODEL_LEN - len(ids),
            text=text or text_of(ids),
            sampling=self._sampling[request.revision],
        )

    def stream(self, request: GenerateRequest, on_event: OnEvent) -> Cancel:
        return asyncio.get_running_loop().create_task(self._stream(request, on_event)).cancel

    async def _stream(self, request: GenerateRequest, on_event: OnEvent) -> None:
        try:
            async for event in self._events(request):
                on_event(event)
        except RequestRejected as rejected:
            on_event(rejected)

    async def _events(self, request: GenerateRequest) -> AsyncIterator[Event]:
        prompt = bytes(one for one in request.token_ids if one < FIRST_WORD).decode(errors="replace")
        if self._is_draining:
            raise NotReady("the engine is draining")
        if request.revision not in self._cards:
            raise UnknownRevision(f"{request.revision} is not loaded")
        if "refuse" in prompt:
            raise QueueFull("the queue is full", retry_after_seconds=2.0)
        self._num_prompt += len(request.token_ids)
        running = Running(request)
        self._running[request.request_id] = running
        try:
            async for event in self._tokens(running, prompt):
                yield event
        finally:
            del self._running[request.request_id]

    async def _tokens(self, running: Running, prompt: str) -> AsyncIterator[Event]:
        request, sampling = running.request, running.request.sampling
        limit = min(sampling.max_tokens or MAX_MODEL_LEN, MAX_MODEL_LEN - len(request.token_ids))
        fail_after = re.search(r"fail-after-(\d+)", prompt)
        hang = re.search(r"hang(?:-after-(\d+))?", prompt)
        pause = SLOW_SECONDS if "slow" in prompt else 0.0
        said = prompt.rpartition("echo ")[2] if "echo " in prompt else None
        said = request.revision if prompt.startswith("who") else said
        if prompt.startswith("sampled"):
            chosen = (sampling.temperature, sampling.top_p, sampling.top_k, sampling.repetition_penalty)
            said = " ".join(f"{one:g}" for one in chosen)
        started, stamps = time.monotonic(), list[float]()
        if "queue" in prompt:
            running.is_queued = True
            await asyncio.sleep(QUEUE_SECONDS)
            running.is_queued = False
        admitted = time.monotonic() - started
        reason, matched, error, produced = FinishReason.LENGTH, None, None, 0
        while produced < limit:
            if running.is_aborted:
                reason = FinishReason.CANCELLED
                break
            if fail_after and produced >= int(fail_after[1]):
                reason, error = FinishReason.FAILED, EngineError("engine_error", "scripted failure")
                break
            is_spent = running.granted_tokens is not None and produced >= running.granted_tokens
            if is_spent or (hang and produced >= int(hang[1] or 0)):
                if running.is_final:
                    reason = FinishReason.BUDGET
                    break
                running.changed.clear()
                await running.changed.wait()
                continue
            await asyncio.sleep(pause)
            token = token_at(request.token_ids, sampling.seed, produced)
            produced += 1
            running.num_produced = produced
            self._num_generated += 1
            stamps.append(time.monotonic() - started)
            word = f" w{token}" if said is None else said[(produced - 1) * 3 : produced * 3]
            if not word:
                reason = FinishReason.STOP
                break
            if word.strip() in sampling.stop or token in sampling.stop_token_ids:
                reason, matched = FinishReason.STOP, word.strip() if word.strip() in sampling.stop else token
                break
            yield Delta(word, (token,), logprobs_of(token, word, sampling.logprobs))
        timings = Timings(
            queue_seconds=admitted,
            first_token_seconds=stamps[0] if stamps else None,
            total_seconds=time.monotonic() - started,
            inter_token_seconds=tuple(b - a for a, b in pairwise(stamps)),
            spans=spans_of(admitted, stamps, time.monotonic() - started),
            arrived_at=started,
        )
        usage = Usage(len(request.token_ids), 0, produced)
        yield Finish(reason, usage, timings, matched_stop=matched, error=error)

    def grant(self, request_id: str, *, granted_tokens: int, is_final: bool) -> None:
        if (running := self._running.get(request_id)) is not None:
            running.granted_tokens, running.is_final = granted_tokens, is_final
            running.touch()

    def abort(self, request_id: str) -> None:
        if (running := self._running.get(request_id)) is not None:
            running.is_aborted = True
            running.touch()

    def abort_owner(self, owner_id: str) -> None:
        for request_id, running in tuple(self._running.items()):
            if running.request.owner.id == owner_id:
                self.abort(request_id)

    def stats(self) -> Stats:
        return Stats(tuple(map(self._stats_of, self._cards)), is_draining=self._is_draining)

    def _stats_of(self, revision: str) -> RevisionStats:
        in_flight = [one for one in self._running.values() if one.request.revision == revision]
        running = [one for one in in_flight if not one.is_queued]
        num_tokens = sum(len(one.request.token_ids) + one.num_produced for one in running)
        return RevisionStats(
            revision=revision,
            num_running=len(running),
            num_waiting=len(in_flight) - len(running),
            num_blocks=NUM_BLOCKS,
            num_blocks_used=min(NUM_BLOCKS, num_tokens // BLOCK_SIZE + len(running)),
            num_generated_tokens=self._num_generated,
            num_prompt_tokens=self._num_prompt,
            num_prefix_queries=self._num_prompt,  # and never a hit
            num_drafted_tokens=self._num_generated,  # of which every second was right
            num_accepted_tokens=self._num_generated // 2,
            running=tuple(one.request.request_id for one in running),
            waits_for=WaitReason.BLOCKS if len(in_flight) > len(running) else None,
        )

    async def drain(self, deadline_seconds: float) -> None:
        self._is_draining = True
        deadline = time.monotonic() + deadline_seconds
        while self._running and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        for request_id in tuple(self._running):
            self.abort(request_id)

    async def stop(self) -> None:
        self._cards.clear()


def token_at(prompt: tuple[int, ...], seed: int | None, position: int) -> int:
    digest = hashlib.sha256(repr((prompt, seed or 0, position)).encode()).digest()
    return FIRST_WORD + int.from_bytes(digest[:4], "big") % (VOCAB_SIZE - FIRST_WORD)


def spans_of(admitted: float, stamps: list[float], total: float) -> tuple[Span, ...]:
    first = stamps[0] if stamps else total
    reason = {"reason": WaitReason.BLOCKS.value} if admitted >= QUEUE_SECONDS else {}
    spans = [Span("queue", 0.0, admitted, reason), Span("prefill", admitted, first, {"cached_tokens": 0})]
    if stamps:
        spans.append(Span("decode", first, total, {"tokens": len(stamps) - 1, "batch": 1}))
    return tuple(spans)


def text_of(ids: tuple[int, ...]) -> str:
    return "".join(chr(one) if one < FIRST_WORD else f" w{one}" for one in ids)


def logprobs_of(token: int, word: str, count: int | None) -> tuple[TokenLogprob, ...]:
    if count is None:
        return ()
    top = tuple(
        TokenLogprob(token + i, f" w{token + i}", f" w{token + i}".encode(), -1.0 - i) for i in range(count)
    )
    return (TokenLogprob(token, word, word.encode(), -1.0, top),)
