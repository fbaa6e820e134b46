"""Decides what each step runs: one token budget for decode and prefill, blocks, preemption. Pure Python."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from itertools import chain

from inference.protocol.events import WaitReason
from inference.scheduling.batch_invariance import ORDINARY, ChunkPolicy
from inference.scheduling.block_pool import BlockPool
from inference.scheduling.prefill_budget import PrefillBudget, StepBudget
from inference.scheduling.prefix_cache import PrefixCache
from inference.scheduling.sequence import Sequence, Status
from inference.scheduling.speculation import Speculation
from inference.scheduling.step_plan import ScheduledChunk, StepPlan
from inference.scheduling.waiting_queue import WaitingQueue

MAX_SKIPPED = 32  # waiting sequences that one step looks up and passes over: bounds its own cost
NOTHING = StepPlan(())


@dataclass(slots=True)
class ScheduleResult:
    """What one call decided."""

    plan: StepPlan = NOTHING  # every sequence waits for a grant, or there is none
    admitted: list[Sequence] = field(default_factory=list)
    preempted: list[Sequence] = field(default_factory=list)
    waits_for: WaitReason | None = None  # why somebody is left in the queue


class Scheduler:
    """Running sequences first (decode, then chunks of prefill), then admission from the waiting queue.

    A sequence gets the blocks of all its tokens when it is admitted, so only decode can run short of blocks.
    Then sequences that wait for a grant give up theirs, then the lowest priority, newest first; they are
    computed again later. The sequence of the best rank can always go on, so some always does.
    """

    def __init__(
        self,
        pool: BlockPool,
        prefix_cache: PrefixCache,
        waiting: WaitingQueue,
        *,
        max_batch_tokens: int,
        max_num_seqs: int,
        chunk_policy: ChunkPolicy = ORDINARY,
        speculation: Speculation | None = None,
    ) -> None:
        self.pool = pool
        self.prefix_cache = prefix_cache
        self.waiting = waiting
        self.speculation = speculation
        self.max_batch_tokens = max_batch_tokens
        self.prefill_budget = PrefillBudget(max_batch_tokens=max_batch_tokens)
        self.chunk_policy = chunk_policy
        # So that decode never crowds out all prefill.
        self.max_num_seqs = min(max_num_seqs, max_batch_tokens - chunk_policy.multiple + 1)
        self.running: list[Sequence] = []  # in order of rank
        self._running_ids: tuple[str, ...] | None = ()  # None: changed since they were asked for
        self.num_preemptions = 0

    def schedule(self) -> ScheduleResult:
        """What to run now."""
        result = ScheduleResult()
        chunks, prefilling = self._decode(result)
        waiting = chain(prefilling, self.waiting)
        budget = self.prefill_budget.budget(num_decoding=len(chunks), waiting=waiting)
        self.chunk_policy.widen(budget)
        self._prefill(prefilling, chunks, budget)
        if self.waiting:
            self._admit(chunks, budget, result)
        if result.preempted:
            chunks = [chunk for chunk in chunks if chunk.sequence.status is Status.RUNNING]
        self.chunk_policy.order(chunks)
        result.plan = (
            StepPlan(tuple(chunks))
            if self.speculation is None
            else self._add_drafts(chunks, self.speculation)
        )
        return result

    def advance(self, chunk: ScheduledChunk) -> None:
        """A chunk was computed: its keys and values are in the pool."""
        sequence = chunk.sequence
        sequence.num_computed_tokens = max(sequence.num_computed_tokens, chunk.end)  # more may be under way
        first, end = chunk.start // self.pool.block_size, chunk.end // self.pool.block_size
        if end > first:
            self.prefix_cache.remember(sequence, first=first, end=end)

    def remove(self, sequence: Sequence) -> None:
        """A sequence ends, wherever it stands."""
        if sequence.status is Status.WAITING:
            self.waiting.remove(sequence)
        elif sequence.status is Status.RUNNING:
            self._leave_batch(sequence)
        sequence.status = Status.FINISHED

    def forget(self, sequence: Sequence) -> list[int]:
        """What the sequence has computed is unusable: nobody finds it. The blocks that are its alone."""
        for block_id in sequence.block_table:
            self.pool.forget(block_id)
        return [block_id for block_id in sequence.block_table if not self.pool.is_shared(block_id)]

    def recompute(self, sequence: Sequence) -> None:
        """A running sequence goes back to the queue: its keys and values are not to be used."""
        self._put_back(sequence)

    @property
    def running_ids(self) -> tuple[str, ...]:
        """Asked for in every step, so made anew only when the batch has changed."""
        if self._running_ids is None:
            self._running_ids = tuple([sequence.id for sequence in self.running])
        return self._running_ids

    def check_integrity(self) -> None:
        """Raise `PoolCorrupted` where the books of blocks disagree."""
        self.pool.check_integrity([sequence.block_table for sequence in self.running])

    def _decode(self, result: ScheduleResult) -> tuple[list[ScheduledChunk], list[Sequence]]:
        """The next tokens of those that decode, and who is still prefilling."""
        chunks: list[ScheduledChunk] = []
        prefilling: list[Sequence] = []
        is_decode, block_size = self.chunk_policy.is_decode, self.pool.block_size
        for sequence in tuple(self.running):
            if sequence.status is not Status.RUNNING or sequence.is_at_grant or sequence.is_complete:
                continue
            if not is_decode(sequence):
                prefilling.append(sequence)
                continue
            has_room = len(sequence.token_ids) <= len(sequence.block_table) * block_size
            if has_room or self._grow(sequence, result):
                chunks.append(ScheduledChunk(sequence, sequence.num_computed_tokens, 1))
        return chunks, prefilling

    def _prefill(self, prefilling: list[Sequence], chunks: list[ScheduledChunk], budget: StepBudget) -> None:
        for sequence in prefilling:
            is_last = sequence is prefilling[-1] and not self.waiting
            if not self._add_chunk(sequence, chunks, budget, is_last=is_last):
                break

    def _add_chunk(
        self, sequence: Sequence, chunks: list[ScheduledChunk], budget: StepBudget, *, is_last: bool
    ) -> bool:
        """Whether the budget took any of the sequence's tokens. `is_last`: nobody waits behind it."""
        size = self.chunk_policy.chunk_size(sequence, budget, is_last=is_last)
        if size == 0:
            return False
        chunks.append(ScheduledChunk(sequence, sequence.num_computed_tokens, size))
        budget.num_tokens -= size
        return True

    def _add_drafts(self, chunks: list[ScheduledChunk], speculation: Speculation) -> StepPlan:
        """The step with drafts behind their sequences' chunks, as far as budget and blocks to spare go."""
        proposal = speculation.propose(chunks)
        if not proposal.drafts:
            return StepPlan(tuple(chunks), is_speculative=proposal.waits)
        budget = self.max_batch_tokens - sum(chunk.num_tokens for chunk in chunks)
        planned: list[ScheduledChunk] = []
        for chunk in chunks:
            planned.append(chunk)
            for start, draft in enumerate(proposal.drafts.get(chunk.sequence, ()), start=chunk.end):
                if budget == 0 or not self._has_slot(chunk.sequence, start):
                    break
                planned.append(ScheduledChunk(chunk.sequence, start, 1, draft))
                budget -= 1
        return StepPlan(tuple(planned), is_speculative=len(planned) > len(chunks))

    def _has_slot(self, sequence: Sequence, position: int) -> bool:
        """Whether a draft's keys have a place, or get one that no running sequence needs soon."""
        if position >= len(sequence.block_table) * self.pool.block_size:
            if self.pool.num_free <= len(self.running):
                return False
            sequence.block_table = (*sequence.block_table, *self.pool.allocate(1))
        return True

    def _grow(self, sequence: Sequence, result: ScheduleResult) -> bool:
        """One more block. Who loses one ranks behind the sequence, or is held: no chunk is lost by it."""
        while self.pool.num_free == 0:
            paused = [other for other in self.running if other.is_at_grant]
            victim = paused[-1] if paused else self.running[-1]
            if victim is sequence:
                return False  # the last in rank waits with its blocks until others end
            self._preempt(victim, result)
        sequence.block_table = (*sequence.block_table, *self.pool.allocate(1))
        return True

    def _admit(self, chunks: list[ScheduledChunk], budget: StepBudget, result: ScheduleResult) -> None:
        num_skipped = 0
        for sequence in self.waiting:
            if budget.num_tokens < self.chunk_policy.multiple:
                result.waits_for = WaitReason.STEP
                break
            if num_skipped == MAX_SKIPPED:
                break
            if sequence.is_at_grant or sequence.num_pending:
                continue
            if sequence in result.preempted:  # all of its blocks may be shared, so that giving way freed none
                result.waits_for = WaitReason.BLOCKS
                break
            found = self.prefix_cache.find(sequence)
            if self.prefix_cache.is_worth_waiting(sequence, num_found=len(found)):
                num_skipped += 1
                result.waits_for = WaitReason.PREFIX
                continue
            if not self._make_room(sequence, found, result, is_idle=not chunks):
                is_full = len(self.running) >= self.max_num_seqs
                result.waits_for = WaitReason.BATCH if is_full else WaitReason.BLOCKS
                break  # nobody overtakes: a long prompt is not starved by short ones
            self._start(sequence, found)
            result.admitted.append(sequence)
            self._add_chunk(sequence, chunks, budget, is_last=not self.waiting)

    def _start(self, sequence: Sequence, found: list[int]) -> None:
        self.waiting.remove(sequence)
        for block_id in found:
            self.pool.share(block_id)
        num_new_blocks = self._num_blocks(sequence) - len(found)
        blocks = found + self.pool.allocate(num_new_blocks)
        sequence.take_blocks(blocks, num_computed_tokens=len(found) * self.pool.block_size)
        sequence.status = Status.RUNNING
        insort(self.running, sequence, key=lambda other: other.rank)
        self._running_ids = None
        if sequence.num_preemptions == 0:
            sequence.num_cached_tokens = sequence.num_computed_tokens
            self.prefix_cache.count(sequence)
        self.prefix_cache.announce(sequence)

    def _make_room(
        self, sequence: Sequence, found: list[int], result: ScheduleResult, *, is_idle: bool
    ) -> bool:
        """Whether a place and the blocks are there, after preempting what is of lower priority.

        `is_idle`: nothing runs in this step, so sequences that wait for a grant give way as well.
        """
        if self._has_room(sequence, found):
            return True
        priority = sequence.request.priority
        victims = [
            other
            for other in self.running
            if other.request.priority < priority or (is_idle and other.is_at_grant)
        ]
        num_freed = sum(len(victim.block_table) for victim in victims)
        if not victims or self.pool.num_free + num_freed < self._num_blocks(sequence):
            return False
        victims.sort(key=lambda victim: (victim.is_at_grant, victim.rank))
        while victims and not self._has_room(sequence, found):
            self._preempt(victims.pop(), result)
        return self._has_room(sequence, found)

    def _has_room(self, sequence: Sequence, found: list[int]) -> bool:
        if len(self.running) >= self.max_num_seqs:
            return False
        num_revived = sum(self.pool.is_free(block_id) for block_id in found)
        num_needed = self._num_blocks(sequence) - len(found) + num_revived
        # A spare block for each running sequence, or they would soon preempt the newcomer.
        return num_needed + len(self.running) <= self.pool.num_free

    def _num_blocks(self, sequence: Sequence) -> int:
        return -(-len(sequence.token_ids) // self.pool.block_size)

    def _preempt(self, sequence: Sequence, result: ScheduleResult) -> None:
        self._put_back(sequence)
        result.preempted.append(sequence)

    def _put_back(self, sequence: Sequence) -> None:
        self._leave_batch(sequence)
        sequence.status = Status.WAITING
        sequence.num_preemptions += 1
        self.num_preemptions += 1
        self.waiting.put_back(sequence)

    def _leave_batch(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self._running_ids = None
        self.prefix_cache.withdraw(sequence)
        self.pool.release(sequence.block_table)
        sequence.block_table = ()
        sequence.num_computed_tokens = 0
