"""Decides what each step runs: one token budget for decode and prefill, blocks, preemption. Pure Python."""

from __future__ import annotations

from bisect import insort
from itertools import chain

from inference.protocol.events import WaitReason
from inference.scheduling.batch_invariance import Borders, is_prefill
from inference.scheduling.block_pool import BlockPool
from inference.scheduling.prefill_budget import MixedSteps, share
from inference.scheduling.prefix_cache import PrefixCache
from inference.scheduling.sequence import Plan, Row, Sequence, Status
from inference.scheduling.speculation import Speculation
from inference.scheduling.waiting_queue import WaitingQueue

MAX_SKIPPED = (
    32  # waiting sequences that are looked up and passed over in one step: bounds the step's own cost
)


class Scheduler:
    """Running sequences first (decode, then chunks of prefill), then admission from the waiting queue.

    A sequence gets the blocks of all its tokens when it is admitted, so only decode can run short of blocks.
    Then sequences at their allowance give theirs up first, then the lowest priority, newest first; they are
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
        borders: Borders | None = None,  # of chunks, in batch-invariant mode; None: wherever the budget ends
        speculation: Speculation | None = None,
    ) -> None:
        self.pool = pool
        self.prefix_cache = prefix_cache
        self.waiting = waiting
        self.speculation = speculation
        self.max_batch_tokens = max_batch_tokens
        self.mixed_steps = MixedSteps(max_batch_tokens=max_batch_tokens)
        self._budget = max_batch_tokens  # prompt tokens that the step may still take
        self._shares = False  # among those who wait
        self.borders = borders
        self._least_chunk = borders.multiple if borders else 1
        # So that decode never crowds out all prefill.
        self.max_num_seqs = min(max_num_seqs, max_batch_tokens - self._least_chunk + 1)
        self.running: list[Sequence] = []  # in order of rank
        self._running_ids: tuple[str, ...] | None = ()  # None: changed since they were asked for
        self.admitted: list[Sequence] = []  # by the last `schedule`
        self.preempted: list[Sequence] = []  # by the last `schedule`
        self.waits_for: WaitReason | None = None  # why the last `schedule` left somebody in the queue
        self.num_preemptions = 0

    def schedule(self) -> Plan:
        """What to run now. Empty: every sequence waits for its allowance, or there is none."""
        self.admitted = []
        self.preempted = []
        self.waits_for = None
        rows = self._continue_running()
        if self.waiting:
            rows = self._admit(rows)
        if self.borders:
            rows.sort(key=is_prefill)  # one that begins with output to compute again stands among the last
        return Plan(tuple(rows)) if self.speculation is None else self._guess(rows, self.speculation)

    def advance(self, row: Row) -> None:
        """A row was computed: its keys and values are in the pool."""
        sequence = row.sequence
        sequence.num_computed_tokens = max(sequence.num_computed_tokens, row.end)  # more may be under way
        first, end = row.start // self.pool.block_size, row.end // self.pool.block_size
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

    def _continue_running(self) -> list[Row]:
        rows: list[Row] = []
        prefilling: list[Sequence] = []
        for sequence in tuple(self.running):
            if sequence.status is not Status.RUNNING or sequence.is_at_allowance or sequence.is_complete:
                continue
            num_tokens, start = len(sequence.token_ids), sequence.num_computed_tokens
            is_decode = start >= sequence.num_prompt_tokens if self.borders else num_tokens - start <= 1
            if not is_decode:
                prefilling.append(sequence)
            elif num_tokens <= len(sequence.block_table) * self.pool.block_size or self._grow(sequence):
                rows.append(Row(sequence, start, 1))
        waiting = chain(prefilling, self.waiting)
        self._budget, self._shares = self.mixed_steps.budget(num_decoding=len(rows), waiting=waiting)
        if self.borders:
            self._budget = max(self._budget, self._least_chunk)
        for sequence in prefilling:
            is_last = sequence is prefilling[-1] and not self.waiting
            chunk = self._chunk(sequence, is_last=is_last)
            if chunk == 0:
                break
            rows.append(Row(sequence, sequence.num_computed_tokens, chunk))
            self._budget -= chunk
        return rows

    def _chunk(self, sequence: Sequence, *, is_last: bool) -> int:
        """Tokens of the sequence that this step computes. `is_last`: nobody waits behind it."""
        if self.borders:
            return self.borders.num_tokens(sequence, budget=self._budget)
        own = share(self._budget) if self._shares and not is_last else self._budget
        return min(own, sequence.num_uncomputed_tokens)

    def _guess(self, rows: list[Row], speculation: Speculation) -> Plan:
        """The step with drafts behind their sequences' rows, as far as budget and blocks to spare go."""
        proposal = speculation.propose(rows)
        if not proposal.drafts:
            return Plan(tuple(rows), guesses=proposal.waits)
        budget = self.max_batch_tokens - sum(row.num_tokens for row in rows)
        planned: list[Row] = []
        for row in rows:
            planned.append(row)
            for start, draft in enumerate(proposal.drafts.get(row.sequence, ()), start=row.end):
                if budget == 0 or not self._has_slot(row.sequence, start):
                    break
                planned.append(Row(row.sequence, start, 1, draft))
                budget -= 1
        return Plan(tuple(planned), guesses=len(planned) > len(rows))

    def _has_slot(self, sequence: Sequence, position: int) -> bool:
        """Whether a draft's keys have a place, or get one that no running sequence needs soon."""
        if position >= len(sequence.block_table) * self.pool.block_size:
            if self.pool.num_free <= len(self.running):
                return False
            sequence.block_table += self.pool.allocate(1)
        return True

    def _grow(self, sequence: Sequence) -> bool:
        """One more block. Who loses one ranks behind the sequence, or is held: no row is lost by it."""
        while self.pool.num_free == 0:
            paused = [other for other in self.running if other.is_at_allowance]
            victim = paused[-1] if paused else self.running[-1]
            if victim is sequence:
                return False  # the last in rank waits with its blocks until others end
            self._preempt(victim)
        sequence.block_table += self.pool.allocate(1)
        return True

    def _admit(self, rows: list[Row]) -> list[Row]:
        num_skipped = 0
        for sequence in self.waiting:
            if self._budget < self._least_chunk:
                self.waits_for = WaitReason.STEP
                break
            if num_skipped == MAX_SKIPPED:
                break
            if sequence.is_at_allowance or sequence.num_pending:
                continue
            found = self.prefix_cache.find(sequence)
            if self.prefix_cache.is_worth_waiting(sequence, num_found=len(found)):
                num_skipped += 1
                self.waits_for = WaitReason.PREFIX
                continue
            if not self._make_room(sequence, found, is_idle=not rows):
                is_full = len(self.running) >= self.max_num_seqs
                self.waits_for = WaitReason.BATCH if is_full else WaitReason.BLOCKS
                break  # nobody overtakes: a long prompt is not starved by short ones
            self._start(sequence, found)
            chunk = self._chunk(sequence, is_last=not self.waiting)
            rows.append(Row(sequence, sequence.num_computed_tokens, chunk))
            self._budget -= chunk
        if self.preempted:
            rows = [row for row in rows if row.sequence.status is Status.RUNNING]
        return rows

    def _start(self, sequence: Sequence, found: list[int]) -> None:
        self.waiting.remove(sequence)
        for block_id in found:
            self.pool.share(block_id)
        num_new_blocks = self._num_blocks(sequence) - len(found)
        sequence.block_table = found + self.pool.allocate(num_new_blocks)
        sequence.num_computed_tokens = len(found) * self.pool.block_size
        sequence.status = Status.RUNNING
        insort(self.running, sequence, key=lambda other: other.rank)
        self._running_ids = None
        if sequence.num_preemptions == 0:
            sequence.num_cached_tokens = sequence.num_computed_tokens
            self.prefix_cache.count(sequence)
        self.prefix_cache.announce(sequence)
        self.admitted.append(sequence)

    def _make_room(self, sequence: Sequence, found: list[int], *, is_idle: bool) -> bool:
        """Whether a place and the blocks are there, after preempting what is of lower priority.

        `is_idle`: nothing runs in this step, so sequences that wait for their allowance give way as well.
        """
        if self._has_room(sequence, found):
            return True
        priority = sequence.request.priority
        victims = [
            other
            for other in self.running
            if other.request.priority < priority or (is_idle and other.is_at_allowance)
        ]
        num_freed = sum(len(victim.block_table) for victim in victims)
        if not victims or self.pool.num_free + num_freed < self._num_blocks(sequence):
            return False
        victims.sort(key=lambda victim: (victim.is_at_allowance, victim.rank))
        while victims and not self._has_room(sequence, found):
            self._preempt(victims.pop())
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

    def _preempt(self, sequence: Sequence) -> None:
        self._put_back(sequence)
        self.preempted.append(sequence)

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
        sequence.num_computed_tokens = 0
