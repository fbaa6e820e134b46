"""The loop: schedule -> run -> sample -> deliver. Knows requests and tokens, no tensors and no web."""

from __future__ import annotations

import logging
import math
import secrets
import time
import traceback
from collections.abc import Callable
from collections.abc import Sequence as Seq

from inference.config import EngineConfig
from inference.protocol.errors import InvalidValue
from inference.protocol.events import EngineError, Event, Finish, FinishReason, Usage, WaitReason
from inference.protocol.requests import GenerateRequest, Sampling
from inference.protocol.stats import ModelCard, RevisionStats
from inference.scheduling.batch_invariance import Borders
from inference.scheduling.block_pool import BlockPool
from inference.scheduling.deadlines import DeadlineWatch
from inference.scheduling.interfaces import Detokenizer, Runner, Sampled, Sampler
from inference.scheduling.phase_timeline import Phase
from inference.scheduling.prefix_cache import PrefixCache
from inference.scheduling.request_state import Flight
from inference.scheduling.scheduler import Scheduler
from inference.scheduling.sequence import Sequence, Status
from inference.scheduling.speculation import Speculation
from inference.scheduling.step_executor import Outcome, is_out_of_memory
from inference.scheduling.step_loop import Stepper, Synchronous
from inference.scheduling.validation import validate
from inference.scheduling.waiting_queue import WaitingQueue

logger = logging.getLogger(__name__)

NON_FINITE = EngineError("non_finite_logits", "the model gave no finite scores for the next token")


class Engine:
    """Continuous batching of one revision. One thread owns it: the one that steps calls every method.

    Events go out through each request's `on_event`, from inside `step`, `extend`, `abort`, `abort_owner` or
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
        stepper: Stepper | None = None,
        speculation: Speculation | None = None,
        borders: Borders | None = None,
        clock: Callable[[], float] = time.monotonic,
        draw_seed: Callable[[], int] = lambda: secrets.randbits(63),
    ) -> None:
        if config.max_batch_tokens is None:
            raise ValueError("max_batch_tokens is to be resolved before an engine is made")
        self.card = card
        self.eos_token_ids = eos_token_ids
        self.runner = runner
        self.sampler = sampler
        self.stepper = stepper or Synchronous(runner, sampler)
        self.detokenizer_factory = detokenizer_factory
        self.clock = clock
        self.draw_seed = draw_seed
        self.pool = BlockPool(num_blocks=runner.num_blocks, block_size=runner.block_size)
        self.prefix_cache = PrefixCache(self.pool, is_enabled=config.prefix_caching, borders=borders)
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
            borders=borders,
        )
        self.speculation = speculation
        self.max_context = min(card.max_model_len, runner.num_blocks * runner.block_size)
        self.deadlines = DeadlineWatch()
        self.flights: dict[str, Flight] = {}
        self._num_arrivals = 0
        self._num_held = 0  # flights that wait for their allowance
        self._num_prompt_tokens = 0
        self._num_generated_tokens = 0
        self._num_steps = 0
        self._last_step_at: float | None = None
        self._last_step_seconds = 0.0
        self._scheduled_at = -math.inf
        self._measured_from = -math.inf  # since when what `stepper.step` tells of has computed

    def submit(self, request: GenerateRequest, on_event: Callable[[Event], None]) -> None:
        """Queue a request. Raises `Refusal` for what is wrong with it; then `on_event` is never called."""
        if request.request_id in self.flights:
            raise InvalidValue("a request of this id is in flight", param="request_id")
        max_tokens = validate(request, vocab_size=self.card.vocab_size, max_context=self.max_context)
        now = self.clock()
        seed = self.draw_seed() if request.sampling.seed is None else request.sampling.seed
        rank = (-request.priority, self._num_arrivals)
        sequence = Sequence(request, arrived_at=now, max_tokens=max_tokens, seed=seed, rank=rank)
        flight = Flight(
            sequence,
            on_event=on_event,
            detokenizer=self.detokenizer_factory(request.sampling, request.token_ids),
            eos_token_ids=self.eos_token_ids,
            now=now,
        )
        self.waiting.add(sequence)
        self._num_arrivals += 1
        self._note_work(now)
        self.flights[request.request_id] = flight
        if sequence.is_at_allowance:
            self._hold(flight, now)
        self.deadlines.watch(flight)

    def extend(self, request_id: str, *, allowance: int, is_final: bool) -> None:
        """Raise the output tokens granted; `is_final`: at it the request ends.

        Unknown ids are ignored, and requests without an allowance: nothing is more than unlimited.
        """
        flight = self.flights.get(request_id)
        if flight is None or flight.sequence.allowance is None:
            return
        sequence = flight.sequence
        sequence.allowance = max(allowance, flight.sequence.allowance)
        sequence.is_allowance_final = is_final
        if flight.timeline.phase is not Phase.ALLOWANCE:
            return
        if not sequence.is_at_allowance:
            self._resume(flight)
        elif is_final:
            self._finish(flight, FinishReason.BUDGET)

    def abort(self, request_id: str) -> None:
        """Finish a request as CANCELLED and free what it holds. Unknown ids are ignored."""
        flight = self.flights.get(request_id)
        if flight is not None:
            self._finish(flight, FinishReason.CANCELLED)

    def abort_owner(self, owner_id: str) -> None:
        """Abort all requests of an owner."""
        for flight in tuple(self.flights.values()):
            if flight.sequence.request.owner.id == owner_id:
                self._finish(flight, FinishReason.CANCELLED)

    def fail_all(self, error: EngineError) -> None:
        """Finish every request as FAILED: the engine ends, or its device is lost."""
        for flight in tuple(self.flights.values()):
            self._finish(flight, FinishReason.FAILED, error=error)

    def step(self) -> bool:
        """One turn of the loop. False: nothing can go on before a command, or before `next_deadline`."""
        started_at = self.clock()
        for flight, error in self.deadlines.expired(self.flights.values(), started_at):
            self._finish(flight, FinishReason.FAILED, error=error)
        waited_for = self.scheduler.waits_for  # as the step before left it
        plan = self.scheduler.schedule()
        self._note_moves(started_at, waited_for)
        if not plan.rows and self.stepper.is_idle:
            return bool(self.scheduler.preempted)
        if self.stepper.is_idle:
            self._measured_from = started_at
        outcome = self.stepper.step(plan)
        now = self.clock()
        if outcome.done:
            self.scheduler.mixed_steps.observe([row for row, _ in outcome.done], now - self._measured_from)
            self._measured_from = now
        self._deliver(outcome, now)
        self._num_steps += 1
        self._last_step_at, self._last_step_seconds = now, now - started_at
        return True

    @property
    def has_work(self) -> bool:
        """Whether any accepted request has not finished."""
        return bool(self.flights)

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
            num_prompt_tokens=self._num_prompt_tokens,
            num_generated_tokens=self._num_generated_tokens,
            num_steps=self._num_steps,
            last_step_at=self._last_step_at,
            last_step_seconds=self._last_step_seconds,
            has_work=len(self.flights) > self._num_held,
            running=self.scheduler.running_ids,
            waits_for=self.scheduler.waits_for,
        )

    def check_integrity(self) -> None:
        """Audit the books of the KV pool, when there is time for it. Raises `PoolCorrupted`."""
        self.scheduler.check_integrity()

    def close(self) -> None:
        """Let go of the model and the KV pool. Nothing may be called after it."""
        del self.runner, self.sampler, self.stepper, self.detokenizer_factory

    def _note_work(self, now: float) -> None:
        """The heartbeat counts from the moment at which there is something to compute."""
        if len(self.flights) == self._num_held:
            self._last_step_at = now

    def _note_moves(self, now: float, waited_for: WaitReason | None) -> None:
        for sequence in self.scheduler.admitted:
            timeline = self.flights[sequence.id].timeline
            was_there = timeline.phase_started_at <= self._scheduled_at
            timeline.admit(now, waited_for if was_there else None)
            if sequence.num_preemptions == 0:
                self._num_prompt_tokens += sequence.num_prompt_tokens
        for sequence in self.scheduler.preempted:
            flight = self.flights[sequence.id]
            if flight.timeline.phase is not Phase.ALLOWANCE:
                flight.timeline.enter(Phase.PREEMPTED, now)
        self._scheduled_at = now

    def _deliver(self, outcome: Outcome, now: float) -> None:
        batch = len(outcome.done) - outcome.num_accepted
        for row, sampled in outcome.done:
            if row.sequence.status is Status.FINISHED:
                continue  # with a token before it, in the same step
            if row.sequence not in outcome.preempted:
                self.scheduler.advance(row)
            if sampled is not None:
                self._accept(self.flights[row.sequence.id], sampled, now, batch=batch)
        if self.speculation is not None:
            self.speculation.count(num_drafted=outcome.num_drafted, num_accepted=outcome.num_accepted)
        for sequence in outcome.spoiled:
            self._recompute(self.flights[sequence.id], now)
        for sequence, error in outcome.failed.items():
            self._fail(self.flights[sequence.id], error)

    def _accept(self, flight: Flight, sampled: Sampled, now: float, *, batch: int) -> None:
        if sampled.token_id is None:
            self.runner.scrub(self.scheduler.forget(flight.sequence))
            self._finish(flight, FinishReason.FAILED, error=NON_FINITE)
            return
        is_first = flight.timeline.first_token_at is None
        try:
            stop = flight.accept(sampled.token_id, sampled)
        except Exception as error:  # one row's text must not stop the others
            self._fail(flight, error)
            return
        flight.timeline.add_token(now, batch=batch)
        self._num_generated_tokens += 1
        if stop is not None:
            self._finish(flight, stop[0], matched_stop=stop[1])
        elif flight.sequence.has_used_allowance:
            self._hold(flight, now)
        elif is_first:
            self.deadlines.watch(flight)

    def _recompute(self, flight: Flight, now: float) -> None:
        """A guess had no finite scores, and what it left may spoil the rest: begin anew, without guesses."""
        flight.sequence.may_guess = False
        self.runner.scrub(self.scheduler.forget(flight.sequence))
        self.scheduler.recompute(flight.sequence)
        flight.timeline.enter(Phase.PREEMPTED, now)

    def _hold(self, flight: Flight, now: float) -> None:
        self._num_held += 1
        flight.timeline.enter(Phase.ALLOWANCE, now)

    def _resume(self, flight: Flight) -> None:
        now = self.clock()
        self._note_work(now)
        self._num_held -= 1
        sequence, timeline = flight.sequence, flight.timeline
        if sequence.status is Status.RUNNING:
            timeline.enter(Phase.DECODE, now)
        else:
            timeline.enter(Phase.QUEUE if timeline.admitted_at is None else Phase.PREEMPTED, now)
        self.deadlines.watch(flight)

    def _fail(self, flight: Flight, error: Exception) -> None:
        """The request is the culprit of `error`."""
        _log(flight.sequence.id, error)
        code = "out_of_memory" if is_out_of_memory(error) else "engine_error"
        failure = EngineError(code, f"the engine failed on this request ({type(error).__name__})")
        self._finish(flight, FinishReason.FAILED, error=failure)

    def _finish(
        self,
        flight: Flight,
        reason: FinishReason,
        *,
        matched_stop: str | int | None = None,
        error: EngineError | None = None,
    ) -> None:
        """The only way out: frees what the request holds and sends its last events."""
        sequence = flight.sequence
        sequence.drop_pending()
        self.scheduler.remove(sequence)
        del self.flights[sequence.id]
        self._num_held -= flight.timeline.phase is Phase.ALLOWANCE
        timings = flight.timeline.close(
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
                flight.send_held_text()
            except Exception as flaw:  # one row's text must not stop the others
                _log(sequence.id, flaw)
        flight.on_event(Finish(reason, usage, timings, matched_stop, error))


def _log(request_id: str, error: Exception) -> None:
    """Where it was raised, without its message: that may quote a prompt."""
    where = "".join(traceback.format_tb(error.__traceback__))
    logger.error("request %s: %s\n%s", request_id, type(error).__name__, where)
