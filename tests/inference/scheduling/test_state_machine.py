"""Whatever happens in whatever order, the engine's promises hold (reliability.md, T5)."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from inference.protocol.errors import RequestRejected
from inference.protocol.events import Delta, FinishReason
from inference.protocol.requests import Deadlines, Sampling
from inference.scheduling.block_pool import block_content
from inference.scheduling.scheduler import ScheduleResult
from inference.scheduling.sequence import Status
from inference.scheduling.step_input import StepInput
from tests.inference.scheduling.fake_model import (
    Broken,
    OutOfMemoryError,
    Stream,
    make_bench,
    next_token,
    oracle,
    repeating,
)

PREFIXES = [[], [7] * 8, [7] * 8 + [9] * 5, [1, 2, 3, 4, 5, 6]]


class EngineMachine(RuleBasedStateMachine):
    """Requests come, end, wait, fail and run out of blocks; their output is always the oracle's."""

    requests = Bundle("requests")

    @initialize(
        num_blocks=st.integers(4, 16),
        max_batch_tokens=st.sampled_from([1, 5, 16, 64]),
        max_num_seqs=st.integers(1, 6),
        prefix_caching=st.booleans(),
        overlaps=st.booleans(),
        num_draft_tokens=st.sampled_from([0, 1, 4]),
    )
    def start(self, **config: Any) -> None:
        self.poison: set[str] = set()
        self.num_oom = 0
        self.max_batch_tokens = config["max_batch_tokens"]
        self.says = repeating if config["num_draft_tokens"] else next_token
        self.bench = make_bench(faults=self.faults, max_queued_requests=8, says=self.says, **config)
        self.engine = self.bench.engine
        self.schedule = self.engine.scheduler.schedule
        self.engine.scheduler.schedule = self.scheduled  # type: ignore[method-assign]
        self.streams: dict[str, Stream] = {}
        self.sampling: dict[str, tuple[list[int], int]] = {}
        self.expected_end: dict[str, set[FinishReason]] = {}

    def scheduled(self) -> ScheduleResult:
        result = self.schedule()
        if not set(result.admitted).isdisjoint(result.preempted):
            raise Broken("who was admitted was preempted in the same step")
        return result

    def faults(self, step: StepInput) -> None:
        if step.num_tokens > self.max_batch_tokens or min(step.lengths) < 1:
            raise Broken("the batch is larger than its budget")
        if not self.poison.isdisjoint(step.request_ids):
            raise ValueError("poison")
        if self.num_oom and step.num_tokens > 1:
            self.num_oom -= 1
            raise OutOfMemoryError("no room")

    @rule(
        target=requests,
        prefix=st.sampled_from(PREFIXES),
        tail=st.lists(st.integers(0, 3), min_size=1, max_size=6),
        salt=st.sampled_from(["a", "b"]),
        max_tokens=st.integers(1, 24),
        priority=st.integers(0, 2),
        num_choices=st.integers(1, 3),
        granted_tokens=st.sampled_from([None, None, 0, 2, 5]),
    )
    def submit(
        self, prefix: list[int], tail: list[int], salt: str, max_tokens: int, num_choices: int, **request: Any
    ) -> str:
        prompt = prefix + tail
        name = f"r{len(self.streams)}"
        for choice in range(num_choices):
            request_id = f"{name}-{choice}"
            try:
                self.streams[request_id] = self.bench.submit(
                    request_id,
                    prompt,
                    salt=salt,
                    owner=salt,
                    sampling=Sampling(max_tokens=max_tokens, ignore_eos=True, seed=1),
                    deadlines=Deadlines(50.0, 100.0, 60.0, 500.0),
                    **request,
                )
            except RequestRejected:
                continue
            self.sampling[request_id] = (prompt, max_tokens)
            self.expected_end[request_id] = {FinishReason.LENGTH}
        return f"{name}-0"

    @rule(times=st.integers(1, 4))
    def step(self, times: int) -> None:
        for _ in range(times):
            self.engine.step()

    @rule(request_id=requests)
    def abort(self, request_id: str) -> None:
        if request_id in self.engine.requests:
            self.expected_end[request_id] = {FinishReason.CANCELLED}
        self.engine.abort(request_id)

    @rule(salt=st.sampled_from(["a", "b"]))
    def abort_owner(self, salt: str) -> None:
        for request_id, state in self.engine.requests.items():
            if state.sequence.request.owner.id == salt:
                self.expected_end[request_id] = {FinishReason.CANCELLED}
        self.engine.abort_owner(salt)

    @rule(request_id=requests, more=st.integers(0, 6), is_final=st.booleans())
    def grant(self, request_id: str, more: int, is_final: bool) -> None:
        state = self.engine.requests.get(request_id)
        if state is None:
            return
        if is_final:
            self.expected_end[request_id] |= {FinishReason.BUDGET}
        granted = (state.sequence.granted_tokens or 0) + more
        self.engine.grant(request_id, granted_tokens=granted, is_final=is_final)

    @rule(request_id=requests)
    def poison_one(self, request_id: str) -> None:
        if request_id in self.engine.requests:
            self.poison.add(request_id)
            self.expected_end[request_id] |= {FinishReason.FAILED}

    @rule(request_id=requests)
    def lose_finiteness(self, request_id: str) -> None:
        if request_id in self.engine.requests:
            self.bench.sampler.non_finite.add(request_id)
            self.expected_end[request_id] |= {FinishReason.FAILED}

    @rule(times=st.integers(1, 3))
    def run_out_of_memory(self, times: int) -> None:
        self.num_oom = times

    @rule(seconds=st.sampled_from([1.0, 30.0, 120.0]))
    def wait(self, seconds: float) -> None:
        self.bench.clock.now += seconds
        if seconds > 1:
            for request_id in self.engine.requests:
                self.expected_end[request_id] |= {FinishReason.FAILED}

    @rule()
    def come_to_rest(self) -> None:
        """Every grant is made: then all ends within bounded steps, and nothing is held any more."""
        for request_id in tuple(self.engine.requests):
            self.engine.grant(request_id, granted_tokens=1000, is_final=False)
        self.bench.run(max_steps=2000)
        assert not self.engine.has_work
        assert self.engine.pool.num_used == 0
        assert self.engine.stats().has_work is False
        assert not self.engine.prefix_cache._computing

    @invariant()
    def books_agree(self) -> None:
        engine = self.engine
        engine.check_integrity()
        pool, stats = engine.pool, engine.stats()
        assert pool.num_free + pool.num_used == pool.num_blocks
        assert stats.num_blocks_used + stats.num_blocks_cached <= stats.num_blocks
        assert len(engine.scheduler.running) <= engine.scheduler.max_num_seqs
        assert len(engine.scheduler.running) + len(engine.waiting) == len(engine.requests)
        assert engine._num_held == sum(f.timeline.phase == "allowance" for f in engine.requests.values())
        new = [s for s in engine.waiting if s.num_preemptions == 0]
        assert engine.waiting.num_new == len(new) <= 8
        assert engine.waiting.num_new_tokens == sum(s.num_prompt_tokens for s in new)

    @invariant()
    def blocks_hold_what_their_tables_say(self) -> None:
        for sequence in self.engine.scheduler.running:
            assert sequence.status is Status.RUNNING
            self.bench.runner._read(sequence.block_table, sequence.num_computed_tokens)
            for block_id in sequence.block_table:
                block = self.engine.pool.blocks[block_id]
                assert block.hash is None or block.salt == sequence.request.owner.salt

    @invariant()
    def blocks_are_remembered_for_what_they_hold(self) -> None:
        """Among them those that ended requests left behind: no draft was taken for a token."""
        size = self.engine.pool.block_size
        for block in self.engine.pool.blocks:
            if block.hash is not None:
                held = [self.bench.runner.slots[block.id * size + index][1] for index in range(size)]
                assert block.content == block_content(held)

    @invariant()
    def outputs_are_the_oracles(self) -> None:
        for request_id, stream in self.streams.items():
            prompt, max_tokens = self.sampling[request_id]
            expected = oracle(prompt, max_tokens=max_tokens, says=self.says)
            output = stream.token_ids
            assert output == expected[: len(output)]
            assert stream.text == "".join(f"<{token_id}>" for token_id in output)
            state = self.engine.requests.get(request_id)
            if state is not None:
                assert all(isinstance(event, Delta) for event in stream.events)
                granted_tokens = state.sequence.granted_tokens
                assert granted_tokens is None or len(output) <= granted_tokens
                continue
            finish = stream.finish
            assert finish.reason in self.expected_end[request_id]
            assert finish.usage.completion_tokens == len(output)
            assert finish.usage.prompt_tokens == len(prompt) > finish.usage.cached_tokens
            assert len(finish.timings.inter_token_seconds) == max(0, len(output) - 1)
            if finish.reason is FinishReason.LENGTH:
                assert output == expected

    def teardown(self) -> None:
        if hasattr(self, "engine"):
            self.bench.sampler.non_finite.clear()
            self.come_to_rest()


EngineMachine.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestEngineMachine = EngineMachine.TestCase
