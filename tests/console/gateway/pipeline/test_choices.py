"""The choices of one request: slices are asked for in time, once, and what is granted is what is used."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from console.gateway.pipeline import choices as module
from console.gateway.pipeline.admission import _slice_tokens
from console.gateway.pipeline.choices import HEADROOM, Choices
from inference.client import Cancel, OnEvent
from inference.protocol.errors import QueueFull
from inference.protocol.events import Delta, Finish, FinishReason, Usage
from inference.protocol.requests import GenerateRequest, Sampling, TokenizedPrompt
from tests.console.gateway.accepted import accepted

SLICE = 256


class Engine:
    """Says what the test lets it say."""

    def __init__(self) -> None:
        self.requests: list[GenerateRequest] = []
        self.receivers: list[OnEvent] = []
        self.grants: list[tuple[str, int, bool]] = []
        self.aborted: list[str] = []
        self.num_cancelled = 0
        self.said: Counter[int] = Counter()

    def stream(self, request: GenerateRequest, on_event: OnEvent) -> Cancel:
        self.requests.append(request)
        self.receivers.append(on_event)
        return self._cancel

    def grant(self, request_id: str, *, granted_tokens: int, is_final: bool) -> None:
        self.grants.append((request_id, granted_tokens, is_final))

    def abort(self, request_id: str) -> None:
        self.aborted.append(request_id)

    def _cancel(self) -> None:
        self.num_cancelled += 1

    def num_said(self, index: int) -> int:
        return self.said[index]

    def say(self, num_tokens: int, *, index: int = 0) -> None:
        self.said[index] += num_tokens
        for number in range(num_tokens):
            self.receivers[index](Delta("x", (number,)))

    def finish(self, num_tokens: int, *, index: int = 0) -> None:
        self.receivers[index](Finish(FinishReason.LENGTH, Usage(1, 0, num_tokens)))


class Ledger:
    """Grants slices from a budget, when it is told to."""

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.asked: list[int] = []
        self.writes = asyncio.Event()
        self.writes.set()

    async def extend(self, ticket: Any, *, output_tokens: int, used_tokens: int) -> bool:
        self.asked.append(output_tokens)
        await self.writes.wait()
        granted = min(output_tokens, self.budget)
        self.budget -= granted
        ticket.output_tokens += granted
        return granted > 0


def began(
    monkeypatch: pytest.MonkeyPatch,
    *,
    budget: int,
    n: int = 1,
    max_tokens: int = 1000,
    logprobs: int | None = None,
    can_grant: bool = True,
) -> tuple[Choices, Engine, Ledger]:
    engine, ledger = Engine(), Ledger(budget)
    monkeypatch.setattr(module, "extend", ledger.extend)
    sampling = Sampling(max_tokens=max_tokens, logprobs=logprobs)
    made = replace(accepted(n=n, sampling=sampling, slice_tokens=SLICE), can_grant=can_grant)
    return Choices(made, engine), engine, ledger  # type: ignore[arg-type]


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_the_next_slice_is_asked_for_once_before_this_one_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    _choices, engine, ledger = began(monkeypatch, budget=10_000)
    assert engine.requests[0].granted_tokens == SLICE
    engine.say(SLICE - HEADROOM - 1)
    await settle()
    assert ledger.asked == []
    ledger.writes.clear()
    engine.say(HEADROOM + 1)  # up to the end of the slice, while the ledger is slow
    await settle()
    assert ledger.asked == [SLICE] and engine.grants == []
    ledger.writes.set()
    await settle()
    assert engine.grants == [(engine.requests[0].request_id, 2 * SLICE, False)]
    engine.say(SLICE)
    await settle()
    assert ledger.asked == [SLICE, SLICE]


async def test_an_engine_that_cannot_grant_is_asked_for_what_is_reserved_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choices, engine, ledger = began(monkeypatch, budget=10_000, n=2, can_grant=False)
    assert [one.granted_tokens for one in engine.requests] == [None, None]
    assert [one.sampling.max_tokens for one in engine.requests] == [SLICE, SLICE]
    for index in (0, 1):
        engine.say(SLICE, index=index)
        engine.finish(SLICE, index=index)
    while not choices.is_over():
        await choices.next(1)
    await settle()
    assert ledger.asked == [] and engine.grants == []
    assert choices.usage().completion_tokens == 2 * SLICE


async def test_the_last_slice_is_as_long_as_what_is_wanted_and_a_spent_budget_is_final(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _choices, engine, ledger = began(monkeypatch, budget=40, max_tokens=SLICE + 100)
    engine.say(SLICE)
    await settle()
    assert ledger.asked == [100]  # no more than the request may have
    assert engine.grants[-1][1:] == (SLICE + 40, False)
    engine.say(1)
    await settle()
    assert ledger.asked == [100, 60] and engine.grants[-1][1:] == (SLICE + 40, True)
    engine.say(39)
    await settle()
    assert ledger.asked == [100, 60]  # who was told that it is spent does not ask again


async def test_what_a_choice_leaves_the_other_takes_without_the_ledger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _choices, engine, ledger = began(monkeypatch, budget=0, n=2)
    engine.say(10, index=0)
    engine.finish(10, index=0)  # of 256
    engine.say(SLICE, index=1)
    await settle()
    assert ledger.asked == []
    assert engine.grants == [(engine.requests[1].request_id, 2 * SLICE - 10, False)]


async def test_stopping_waits_for_the_ledger_and_for_what_was_used(monkeypatch: pytest.MonkeyPatch) -> None:
    choices, engine, ledger = began(monkeypatch, budget=10_000)
    ledger.writes.clear()
    engine.say(SLICE)
    await settle()
    stopping = asyncio.ensure_future(choices.stop())
    await settle()
    assert engine.aborted == [engine.requests[0].request_id] and not stopping.done()
    engine.finish(SLICE)
    await settle()
    assert not stopping.done()
    ledger.writes.set()
    await asyncio.wait_for(stopping, 5)
    assert choices.usage().completion_tokens == SLICE
    assert engine.grants == []  # it had ended


async def test_an_engine_that_says_nothing_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_SECONDS", 0.01)
    choices, engine, _ = began(monkeypatch, budget=0)
    engine.say(3)
    await asyncio.wait_for(choices.stop(), 5)
    assert engine.num_cancelled == 1
    assert choices.usage().completion_tokens == 3


async def test_a_refusal_is_raised_to_the_reader_after_what_came_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choices, engine, _ = began(monkeypatch, budget=0, n=2)
    engine.say(1, index=0)
    engine.receivers[1](QueueFull("full"))
    assert (await choices.next(1)) == (0, Delta("x", (0,)))
    with pytest.raises(QueueFull):
        await choices.next(1)


async def test_a_ledger_that_fails_ends_the_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    choices, engine, _ledger = began(monkeypatch, budget=0)

    async def broken(*_: Any, **__: Any) -> bool:
        raise OSError("the disk is gone")

    monkeypatch.setattr(module, "extend", broken)
    engine.say(SLICE)
    await settle()
    assert engine.num_cancelled == 1
    assert isinstance((await choices.next(1) or (0, None))[1], Delta)
    with pytest.raises(OSError, match="gone"):
        await choices.next(1)


@pytest.mark.parametrize(("n", "logprobs"), [(8, 20), (1, 20), (8, None), (3, 5)])
async def test_the_engine_waits_for_a_reader_who_lags_and_what_waits_is_small(
    monkeypatch: pytest.MonkeyPatch, n: int, logprobs: int | None
) -> None:
    choices, engine, _ = began(monkeypatch, budget=10**6, n=n, max_tokens=4000, logprobs=logprobs)
    said = 0
    while True:  # as the engine does: to where it may, and no further
        reach = allowed(engine)
        more = [reach[index] - engine.num_said(index) for index in range(n)]
        if not any(more):
            break
        for index, num_tokens in enumerate(more):
            engine.say(num_tokens, index=index)
            said += num_tokens
        await settle()
    num_logprobs = 0 if logprobs is None else 1 + logprobs
    a_token_each = n * (module.TOKEN_BYTES + num_logprobs * module.LOGPROB_BYTES)
    least = module.LEAST_WINDOW * a_token_each
    assert 0 < said / n * a_token_each <= max(module.MOST_UNREAD_BYTES, least)
    for _ in range(n):
        await choices.next(1)
    assert all(allowed(engine)[index] > engine.num_said(index) for index in range(n))


async def test_a_reader_who_comes_along_never_stops_the_engine_and_gets_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    choices, engine, _ = began(monkeypatch, budget=10**6, n=2, max_tokens=600, logprobs=20)
    for _ in range(600):
        for index in range(2):
            assert allowed(engine)[index] > engine.num_said(index)
            engine.say(1, index=index)
        await settle()
        for _ in range(2):
            await choices.next(1)
    assert [allowed(engine)[index] for index in range(2)] == [600, 600]


async def test_a_spent_budget_is_told_once_the_reader_has_come_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    choices, engine, _ = began(monkeypatch, budget=0, n=8, max_tokens=4000, logprobs=20)
    while allowed(engine)[0] < SLICE:
        assert not any(is_final for _, _, is_final in engine.grants)
        for index in range(8):
            engine.say(allowed(engine)[index] - engine.num_said(index), index=index)
        await settle()
        for _ in range(8):
            await choices.next(1)
    for index in range(8):
        engine.say(SLICE - engine.num_said(index), index=index)
    await settle()
    for _ in range(8):
        await choices.next(1)
    last = {request_id: (reach, is_final) for request_id, reach, is_final in engine.grants}
    assert set(last.values()) == {(SLICE, True)}


def allowed(engine: Engine) -> list[int]:
    """How far each choice may go, as the engine was told last."""
    reach = {request.request_id: request.granted_tokens or 0 for request in engine.requests}
    for request_id, granted_tokens, _ in engine.grants:
        reach[request_id] = max(granted_tokens, reach[request_id])
    return list(reach.values())


def requests_of(monkeypatch: pytest.MonkeyPatch, *, n: int, **fields: Any) -> list[GenerateRequest]:
    engine = Engine()
    monkeypatch.setattr(module, "extend", Ledger(0).extend)
    made = accepted(n=n, sampling=Sampling(**fields), slice_tokens=SLICE)
    Choices(made, engine)  # type: ignore[arg-type]
    return engine.requests


@pytest.mark.parametrize("seed", [0, 23, -1, 2**63 - 1, -(2**63)])
async def test_choices_of_a_seeded_request_draw_apart_and_the_same_each_time(
    monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    first = [one.sampling.seed for one in requests_of(monkeypatch, n=5, seed=seed)]
    assert len(set(first)) == 5
    assert first == [one.sampling.seed for one in requests_of(monkeypatch, n=5, seed=seed)]
    assert first[0] == seed  # as a request for one choice


async def test_without_a_seed_each_choice_draws_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [one.sampling.seed for one in requests_of(monkeypatch, n=3)] == [None] * 3


@pytest.mark.parametrize(
    ("can_grant", "max_tokens", "tokens"),
    [(True, 1000, 256), (True, 9, 9), (True, None, 256), (False, 1000, 1000), (False, None, 4000)],
)
def test_a_slice_is_reserved_at_first_or_all_where_nothing_can_be_granted_later(
    can_grant: bool, max_tokens: int | None, tokens: int
) -> None:
    asked = accepted(sampling=Sampling(max_tokens=max_tokens), slice_tokens=SLICE).request
    prompts = tuple(TokenizedPrompt((1,), max_output_tokens=room) for room in (4096, 4000))
    assert _slice_tokens(asked, prompts, can_grant=can_grant) == tokens
