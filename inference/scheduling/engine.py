"""The loop: schedule -> execute (the model, then its sampler) -> deliver. No tensors and no web."""

from __future__ import annotations

import logging
import secrets
import time
import traceback
from collections.abc import Callable
from collections.abc import Sequence as Seq

from inference.config import EngineConfig
from inference.protocol.errors import InvalidValue
from inference.protocol.events import EngineError, Event, Finish, FinishReason, Usage
from inference.protocol.requests import GenerateRequest, Sampling
from inference.protocol.stats import ModelCard, RevisionStats
from inference.scheduling.batch_invariance import ORDINARY, ChunkPolicy
from inference.scheduling.block_pool import BlockPool
from inference.scheduling.deadlines import DeadlineWatch
from inference.scheduling.interfaces import Detokenizer, Runner, Sampled, Sampler
from inference.scheduling.phase_timeline import Phase
from inference.scheduling.prefix_cache import PrefixCache
from inference.scheduling.request_state import RequestState
from inference.scheduling.scheduler import Scheduler
from inference.scheduling.sequence import Sequence, Status
from inference.scheduling.speculation import Speculation
from inference.scheduling.step_executor import StepResult, is_out_of_memory
from inference.scheduling.step_loop import StepRunner, SyncStepRunner
from inference.scheduling.step_recorder import StepRecorder
from inference.scheduling.validation import validate
from inference.scheduling.waiting_queue import WaitingQueue

logger = logging.getLogger(__name__)

NON_FINITE = EngineError("non_finite_logits", "the model gave no finite scores for the next token")


class Engine:
    """Continuous batching of one revision. One thread owns it: the one that steps calls every method.

    Events go out through each request's `on_event`, from inside `step`, `grant`, `abort`, `abort_owner` or
    `fail_all`, in order; exactly one `Finish` per accepted request, as the last. `on_event` does not raise,
    and calls nothing here.
    """

    def __init__(
        self,
        config: EngineConfig,
        *,
        card: ModelCard,
        eos_token_ids: frozenset[int],
        runner: Runner,
        sampler: Sampler,
        detokenizer_factory: Callable[[Sampling, Seq[int]], Detokenizer],  # what follows which prompt
        step_runner: StepRunner | None = None,
        speculation: Speculation | None = None,
        chunk_policy: ChunkPolicy = ORDINARY,
        clock: Callable[[], float] = time.monotonic,
        draw_seed: Callable[[], int] = lambda: secrets.randbits(63),
    ) -> None:
        if config.max_batch_tokens is None:
            raise ValueError("max_batch_tokens is to be resolved before an engine is made")
        self.card = card
        self.eos_token_ids = eos_token_ids
        self.runner = runner
        self.sampler = sampler
        self.step_runner = step_runner or SyncStepRunner(runner, sampler)
        self.detokenizer_factory = detokenizer_factory
        self.clock = clock
        self.draw_seed = draw_seed
        self.pool = BlockPool(num_blocks=runner.num_blocks, block_size=runner.block_size)
        self.prefix_cache = PrefixCache(
            self.pool, is_enabled=config.prefix_caching, chunk_policy=chunk_policy
        )
        self.waiting = WaitingQueue(
            max_requests=config.max_queued_requests, max_tokens=config.max_queued_tokens
        )
        self.scheduler = Scheduler(
            self.pool,
            self.prefix_cache,
            self.waiting,
            max_batch_tokens=config.max_batch_tokens,
            max_num_seqs=config.max_num_seqs,
            speculation=speculation,
            chunk_policy=chunk_policy,
        )
        self.speculation = speculation
        self.max_context = min(card.max_model_len, runner.num_blocks * runner.block_size)
        self.deadlines = DeadlineWatch()
        self.requests: dict[str, RequestState] = {}
        self._num_arrivals = 0
        self._num_held = 0  # requests that wait for a grant
        self.recorder = StepRecorder(self.scheduler.prefill_budget)

    def submit(self, request: GenerateRequest, on_event: Callable[[Event], None]) -> None:
        """Queue a request. Raises `RequestRejected`; then `on_event` is never called."""
        if request.request_id in self.requests:
            raise InvalidValue("a request of this id is in flight", param="request_id")
        max_tokens = validate(request, vocab_size=self.card.vocab_size, max_context=self.max_context)
        now = self.clock()
        seed = self.draw_seed() if request.sampling.seed is None else request.sampling.seed
        rank = (-request.priority, self._num_arrivals)
        sequence = Sequence(request, arrived_at=now, max_tokens=max_tokens, seed=seed, rank=rank)
        state = RequestState(
            sequence,
            on_event=on_event,
            detokenizer=self.detokenizer_factory(request.sampling, request.token_ids),
            eos_token_ids=self.eos_token_ids,
            now=now,
        )
        self.waiting.add(sequence)
        self._num_arrivals += 1
        self._note_work(now)
        self.requests[request.request_id] = state
        if sequence.is_at_grant:
            self._hold(state, now)
        self.deadlines.watch(state)

    def grant(self, request_id: str, *, granted_tokens: int, is_final: bool) -> None:
        """Raise the output tokens granted; `is_final`: at it the request ends.

        Unknown ids are ignored, and requests without a limit of tokens: nothing is more than unlimited.
        """
        state = self.requests.get(request_id)
        if state is None or state.sequence.granted_tokens is None:
            return
        sequence = state.sequence
        sequence.granted_tokens = max(granted_tokens, state.sequence.granted_tokens)
        sequence.is_grant_final = is_final
        if state.timeline.phase is not Phase.GRANT:
            return
        if not sequence.is_at_grant:
            self._resume(state)
        elif is_final:
            self._finish(state, FinishReason.BUDGET)

    def abort(self, request_id: str) -> None:
        """Finish a request as CANCELLED and free what it holds. Unknown ids are ignored."""
        state = self.requests.get(request_id)
        if state is not None:
            self._finish(state, FinishReason.CANCELLED)

    def abort_owner(self, owner_id: str) -> None:
        """Abort all requests of an owner."""
        for state in tuple(self.requests.values()):
            if state.sequence.request.owner.id == owner_id:
                self._finish(state, FinishReason.CANCELLED)

    def fail_all(self, error: EngineError) -> None:
        """Finish every request as FAILED: the engine ends, or its device is lost."""
        for state in tuple(self.requests.values()):
            self._finish(state, FinishReason.FAILED, error=error)

    def step(self) -> bool:
        """One turn of the loop. False: nothing can go on before a command, or before `next_deadline`."""
        started_at = self.clock()
        for state, error in self.deadlines.expired(self.requests.values(), started_at):
            self._finish(state, FinishReason.FAILED, error=error)
        scheduled = self.scheduler.schedule()
        self.recorder.note_schedule(scheduled, self.requests, started_at)
        is_idle = self.step_runner.is_idle
        if is_idle and not scheduled.plan.chunks:
            return bool(scheduled.preempted)
        self.recorder.note_start(is_idle=is_idle)
        result = self.step_runner.execute(scheduled.plan)
        now = self.clock()
        self.recorder.note_result(result, now)
        self._deliver(result, now)
        return True

    @property
    def has_work(self) -> bool:
        """Whether any accepted request has not finished."""
        return bool(self.requests)

    def next_deadline(self) -> float | None:
        """Clock time at which `step` must be called even without a command; None: never."""
        return self.deadlines.next_at

    def stats(self) -> RevisionStats:
        """Counters and gauges as they stand. `has_work`: something could be computed, so steps are due."""
        return RevisionStats(
            revision=self.card.revision,
            num_running=len(self.scheduler.running),
            num_waiting=len(self.waiting),
            num_blocks=self.pool.num_blocks,
            num_blocks_used=self.pool.num_used,
            num_blocks_cached=self.pool.num_cached,
            num_prefix_queries=self.prefix_cache.num_queries,
            num_prefix_hits=self.prefix_cache.num_hits,
            num_preemptions=self.scheduler.num_preemptions,
            num_drafted_tokens=self.speculation.num_drafted if self.speculation else 0,
            num_accepted_tokens=self.speculation.num_accepted if self.speculation else 0,
            num_prompt_tokens=self.recorder.num_prompt_tokens,
            num_generated_tokens=self.recorder.num_generated_tokens,
            num_steps=self.recorder.num_steps,
            last_step_at=self.recorder.last_step_at,
            last_step_seconds=self.recorder.last_step_seconds,
            has_work=len(self.requests) > self._num_held,
            running=self.scheduler.running_ids,
            waits_for=self.recorder.waits_for,
        )

    def check_integrity(self) -> None:
        """Audit the books of the KV pool, when there is time for it. Raises `PoolCorrupted`."""
        self.scheduler.check_integrity()

    def close(self) -> None:
        """Let go of the model and the KV pool. Nothing may be called after it."""
        del self.runner, self.sampler, self.step_runner, self.detokenizer_factory

    def _note_work(self, now: float) -> None:
        """The heartbeat counts from the moment at which there is something to compute."""
        if len(self.requests) == self._num_held:
            self.recorder.note_work(now)

    def _deliver(self, result: StepResult, now: float) -> None:
        batch = len(result.done) - result.num_accepted
        for chunk, sampled in result.done:
            if chunk.sequence.status is Status.FINISHED:
                continue  # with a token before it, in the same step
            if chunk.sequence not in result.preempted:
                self.scheduler.advance(chunk)
            if sampled is not None:
                self._accept(self.requests[chunk.sequence.id], sampled, now, batch=batch)
        if self.speculation is not None:
            self.speculation.count(num_drafted=result.num_drafted, num_accepted=result.num_accepted)
        for sequence in result.invalid_drafts:
            self._recompute(self.requests[sequence.id], now)
        for sequence, error in result.failed.items():
            self._fail(self.requests[sequence.id], error)

    def _accept(self, state: RequestState, sampled: Sampled, now: float, *, batch: int) -> None:
        if sampled.token_id is None:
            self.runner.zero_blocks(self.scheduler.forget(state.sequence))
            self._finish(state, FinishReason.FAILED, error=NON_FINITE)
            return
        is_first = state.timeline.first_token_at is None
        try:
            stop = state.accept(sampled.token_id, sampled)
        except Exception as error:  # one request's text must not stop the others
            self._fail(state, error)
            return
        self.recorder.note_token(state, now, batch=batch)
        if stop is not None:
            self._finish(state, stop[0], matched_stop=stop[1])
        elif state.sequence.has_used_grant:
            self._hold(state, now)
        elif is_first:
            self.deadlines.watch(state)

    def _recompute(self, state: RequestState, now: float) -> None:
        """A draft had no finite scores, and what it left may spoil the rest: begin anew, without drafts."""
        state.sequence.may_draft = False
        self.runner.zero_blocks(self.scheduler.forget(state.sequence))
        self.scheduler.recompute(state.sequence)
        state.timeline.enter(Phase.PREEMPTED, now)

    def _hold(self, state: RequestState, now: float) -> None:
        self._num_held += 1
        state.timeline.enter(Phase.GRANT, now)

    def _resume(self, state: RequestState) -> None:
        now = self.clock()
        self._note_work(now)
        self._num_held -= 1
        sequence, timeline = state.sequence, state.timeline
        if sequence.status is Status.RUNNING:
            timeline.enter(Phase.DECODE, now)
        else:
            timeline.enter(Phase.QUEUE if timeline.admitted_at is None else Phase.PREEMPTED, now)
        self.deadlines.watch(state)

    def _fail(self, state: RequestState, error: Exception) -> None:
        """The request is the culprit of `error`."""
        _log(state.sequence.id, error)
        code = "out_of_memory" if is_out_of_memory(error) else "engine_error"
        failure = EngineError(code, f"the engine failed on this request ({type(error).__name__})")
        self._finish(state, FinishReason.FAILED, error=failure)

    def _finish(
        self,
        state: RequestState,
        reason: FinishReason,
        *,
        matched_stop: str | int | None = None,
        error: EngineError | None = None,
    ) -> None:
        """The only way out: frees what the request holds and sends its last events."""
        sequence = state.sequence
        sequence.drop_pending()
        self.scheduler.remove(sequence)
        del self.requests[sequence.id]
        self._num_held -= state.timeline.phase is Phase.GRANT
        timings = state.timeline.close(
            self.clock(),
            num_preemptions=sequence.num_preemptions,
            num_cached_tokens=sequence.num_cached_tokens,
        )
        usage = Usage(
            prompt_tokens=sequence.num_prompt_tokens,
            cached_tokens=sequence.num_cached_tokens,
            completion_tokens=sequence.num_output_tokens,
        )
        if reason is not FinishReason.FAILED:
            try:
                state.send_held_text()
            except Exception as flaw:  # one request's text must not stop the others
                _log(sequence.id, flaw)
        state.on_event(Finish(reason, usage, timings, matched_stop, error))


def _log(request_id: str, error: Exception) -> None:
    """Where it was raised, without its message: that may quote a prompt."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("request %s: %s\n%s", request_id, type(error).__name__, where)
