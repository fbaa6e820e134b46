"""Requests and tokens a minute: exactly as many pass as may, whoever races, and a wait is an honest one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest
from asgiref.sync import sync_to_async
from django.db import IntegrityError, connection, transaction
from django.utils import timezone
from hypothesis import given
from hypothesis import strategies as st

from console.accounts.caller import Caller
from console.audit.actor import Actor
from console.keys.actions import IssuedKey
from console.limits import rates
from console.limits.actions import BadLimit, Limits, set_limits
from console.limits.bucket import UNIT, Bucket, duration, rate_headers
from console.limits.models import Limit, Ticket
from console.limits.reserve import LimitExceeded, _reserve, extend, reserve
from console.limits.settle import settle
from tests.console.limits.requests import caller_of, ended

transactional = pytest.mark.django_db(transaction=True)

START = 1_800_000_000_000


class Clock:
    """Milliseconds that only a test moves."""

    now = START

    def __call__(self) -> int:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[Clock]:
    clock = Clock()
    monkeypatch.setattr(rates, "now_ms", clock)
    monkeypatch.setattr("console.limits.settle.now_ms", clock)
    yield clock


async def limited(issued: IssuedKey, **limits: int) -> Caller:
    await sync_to_async(set_limits)(actor=Actor.person("test"), key=issued.key, limits=Limits(**limits))
    return caller_of(issued.key)


async def passes(caller: Caller, request_id: str, *, prompt: int = 1, output: int = 1) -> bool:
    try:
        await reserve(caller=caller, request_id=request_id, prompt_tokens=prompt, output_tokens=output)
    except LimitExceeded as refusal:
        assert refusal.code == "rate_limit_exceeded"
        return False
    return True


async def rush(caller: Caller, name: str, **tokens: int) -> int:
    """How many of 64 requests at once are let in."""
    asked = (passes(caller, f"{name}-{number}", **tokens) for number in range(64))
    return sum(await asyncio.gather(*asked))


@transactional
async def test_of_sixty_four_requests_at_once_exactly_the_limit_pass(issued: IssuedKey, clock: Clock) -> None:
    caller = await limited(issued, requests_per_minute=7)
    assert await rush(caller, "first") == 7
    assert await rush(caller, "second") == 0
    assert await Ticket.objects.acount() == 7


@transactional
async def test_tokens_a_minute_are_held_before_they_are_spent(issued: IssuedKey, clock: Clock) -> None:
    """58 + 42 tokens each, 1000 a minute: ten, however many come at once."""
    caller = await limited(issued, tokens_per_minute=1000)
    assert await rush(caller, "r", prompt=58, output=42) == 10
    assert (await Limit.objects.aget()).held_tokens == 1000


@pytest.mark.parametrize("limits", [{"requests_per_minute": 20}, {"tokens_per_minute": 200}])
@transactional
def test_servers_that_race_let_exactly_the_limit_pass(
    issued: IssuedKey, clock: Clock, limits: dict[str, int]
) -> None:
    """Each thread is a server's committer, with a connection of its own."""
    set_limits(actor=Actor.person("test"), key=issued.key, limits=Limits(**limits))
    barrier, admitted, failures = threading.Barrier(8), list[str](), list[BaseException]()

    def server(number: int) -> None:
        try:
            barrier.wait()
            for turn in range(8):
                ticket = Ticket(
                    request_id=f"{number}-{turn}",
                    owner=issued.key.public_id,
                    team_id=issued.key.team_id,
                    key_id=issued.key.pk,
                    prompt_tokens=4,
                    server="here",
                    created_at=timezone.now(),
                )
                try:
                    with transaction.atomic():
                        _reserve(ticket, output_tokens=6)
                    admitted.append(ticket.request_id)
                except LimitExceeded:
                    pass
        except BaseException as failure:
            failures.append(failure)
        finally:
            connection.close()

    threads = [threading.Thread(target=server, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(admitted) == 20 == Ticket.objects.count()


@transactional
async def test_a_refusal_names_the_moment_at_which_the_next_passes_and_not_one_before(
    issued: IssuedKey, clock: Clock
) -> None:
    caller = await limited(issued, requests_per_minute=7)
    assert await rush(caller, "first") == 7
    with pytest.raises(LimitExceeded) as refusal:
        await reserve(caller=caller, request_id="r", prompt_tokens=1, output_tokens=1)
    wait = refusal.value.retry_after_seconds
    assert wait is not None and wait == pytest.approx(60 / 7, abs=0.001)
    clock.now += round(wait * 1000) - 1
    assert not await passes(caller, "too-early")
    clock.now += 1
    assert await passes(caller, "in-time")
    assert not await passes(caller, "one-more")


@transactional
async def test_after_a_minute_of_rest_the_whole_limit_is_there_again_and_no_more(
    issued: IssuedKey, clock: Clock
) -> None:
    caller = await limited(issued, requests_per_minute=7)
    assert await rush(caller, "a") == 7
    clock.now += 60_000
    assert await rush(caller, "b") == 7
    clock.now += 86_400_000
    assert await rush(caller, "c") == 7


@transactional
async def test_a_clock_that_is_behind_gives_nothing_away(issued: IssuedKey, clock: Clock) -> None:
    caller = await limited(issued, requests_per_minute=7)
    assert await rush(caller, "a") == 7
    clock.now -= 30_000  # another server's
    assert not await passes(caller, "b")
    clock.now += 30_000
    assert not await passes(caller, "c")


@transactional
async def test_what_was_held_and_not_used_is_free_at_once(issued: IssuedKey, clock: Clock) -> None:
    caller = await limited(issued, tokens_per_minute=1000)
    ticket = await reserve(caller=caller, request_id="r1", prompt_tokens=100, output_tokens=900)
    assert not await passes(caller, "r2", prompt=100, output=100)
    await settle(ticket, record=ended(prompt_tokens=100, completion_tokens=50))
    limit = await Limit.objects.aget()
    assert (limit.held_tokens, limit.tokens_level) == (0, 150 * UNIT)
    assert await passes(caller, "r2", prompt=100, output=750)
    assert not await passes(caller, "r3")


@transactional
async def test_a_long_answer_is_not_cut_and_what_it_took_beyond_delays_the_next(
    issued: IssuedKey, clock: Clock
) -> None:
    caller = await limited(issued, tokens_per_minute=600)
    ticket = await reserve(caller=caller, request_id="r1", prompt_tokens=100, output_tokens=256)
    for used in (300, 500, 700):
        assert await extend(ticket, output_tokens=256, used_tokens=used)
        clock.now += 6_000  # 60 tokens drain
    await settle(ticket, record=ended(prompt_tokens=100, completion_tokens=800))
    limit = await Limit.objects.aget()
    assert (limit.held_tokens, limit.tokens_level) == (0, (900 - 180) * UNIT)
    with pytest.raises(LimitExceeded) as refusal:
        await reserve(caller=caller, request_id="r2", prompt_tokens=1, output_tokens=9)
    assert refusal.value.retry_after_seconds == (720 + 10 - 600) / 10


@transactional
async def test_a_first_slice_is_no_larger_than_a_minutes_tokens(issued: IssuedKey, clock: Clock) -> None:
    caller = await limited(issued, tokens_per_minute=100)
    ticket = await reserve(caller=caller, request_id="r1", prompt_tokens=60, output_tokens=256)
    assert ticket.granted_tokens == 40


@transactional
async def test_a_prompt_that_no_minute_holds_is_told_that_waiting_does_not_help(
    issued: IssuedKey, clock: Clock
) -> None:
    caller = await limited(issued, tokens_per_minute=100)
    with pytest.raises(LimitExceeded) as refusal:
        await reserve(caller=caller, request_id="r1", prompt_tokens=100, output_tokens=1)
    assert (refusal.value.code, refusal.value.retry_after_seconds) == ("rate_limit_exceeded", None)
    assert (await Limit.objects.aget()).reserved_tokens == 0


@transactional
async def test_a_refused_request_takes_nothing_of_the_other_limits(issued: IssuedKey, clock: Clock) -> None:
    caller = await limited(issued, requests_per_minute=1, tokens_per_minute=1000, budget_tokens=1000)
    assert await passes(caller, "r1")
    assert not await passes(caller, "r2", prompt=10, output=10)
    limit = await Limit.objects.aget()
    assert (limit.reserved_tokens, limit.held_tokens, limit.requests_level) == (2, 2, UNIT)
    assert await Ticket.objects.acount() == 1


@transactional
async def test_an_answer_tells_what_is_left(issued: IssuedKey, clock: Clock) -> None:
    caller = await limited(issued, requests_per_minute=60, tokens_per_minute=6000)
    ticket = await reserve(caller=caller, request_id="r1", prompt_tokens=100, output_tokens=256)
    assert rate_headers(ticket.buckets) == {
        "x-ratelimit-limit-requests": "60",
        "x-ratelimit-remaining-requests": "59",
        "x-ratelimit-reset-requests": "1s",
        "x-ratelimit-limit-tokens": "6000",
        "x-ratelimit-remaining-tokens": "5644",
        "x-ratelimit-reset-tokens": "3.56s",
    }


@transactional
async def test_a_key_without_rates_is_told_of_none(issued: IssuedKey) -> None:
    caller = await limited(issued, budget_tokens=1000)
    ticket = await reserve(caller=caller, request_id="r1", prompt_tokens=1, output_tokens=1)
    assert rate_headers(ticket.buckets) == {}


@transactional
async def test_a_rate_that_is_set_later_begins_empty_and_requests_in_flight_settle_all_the_same(
    issued: IssuedKey, clock: Clock
) -> None:
    caller = await limited(issued, budget_tokens=10_000)
    earlier = [
        await reserve(caller=caller, request_id=f"r{number}", prompt_tokens=1, output_tokens=99)
        for number in range(5)
    ]
    await limited(issued, budget_tokens=10_000, requests_per_minute=2, tokens_per_minute=1000)
    assert await passes(caller, "s1") and await passes(caller, "s2")
    assert not await passes(caller, "s3")
    for ticket in earlier:
        await settle(ticket, record=ended(prompt_tokens=1, completion_tokens=99))
    limit = await Limit.objects.aget()
    assert (limit.used_tokens, limit.held_tokens, limit.tokens_level) == (500, 4, 500 * UNIT)


@transactional
async def test_lifting_a_budget_keeps_its_counter_and_setting_it_anew_begins_at_nothing(
    issued: IssuedKey,
) -> None:
    caller = await limited(issued, budget_tokens=100)
    ticket = await reserve(caller=caller, request_id="r1", prompt_tokens=50, output_tokens=50)
    await settle(ticket, record=ended(prompt_tokens=50, completion_tokens=50))
    await limited(issued)
    ticket = await reserve(caller=caller, request_id="r2", prompt_tokens=5000, output_tokens=50)
    await settle(ticket, record=ended(prompt_tokens=5000, completion_tokens=50))
    await limited(issued, budget_tokens=100)
    assert await passes(caller, "r3", prompt=50, output=50)


@pytest.mark.parametrize("limits", [{"requests_per_minute": 0}, {"tokens_per_minute": 10**10}])
def test_a_rate_beyond_reason_is_refused(limits: dict[str, int]) -> None:
    with pytest.raises(BadLimit):
        Limits(**limits)


@transactional
def test_the_database_itself_refuses_an_overspend_but_not_a_key_without_a_budget(issued: IssuedKey) -> None:
    limit = set_limits(actor=Actor.person("test"), key=issued.key, limits=Limits(requests_per_minute=1))
    Limit.objects.update(used_tokens=6, reserved_tokens=5)
    with pytest.raises(IntegrityError), transaction.atomic():
        Limit.objects.filter(pk=limit.pk).update(budget_tokens=10)


@given(limit=st.integers(1, 10**9), level=st.integers(0, 10**14), cost=st.integers(1, 10**6))
def test_a_wait_is_long_enough_and_not_a_millisecond_longer(limit: int, level: int, cost: int) -> None:
    wait = round(Bucket("tokens", limit, level).seconds_until_room_for(cost) * 1000)

    def fits(milliseconds: int) -> bool:
        return max(0, level - limit * milliseconds) + cost * UNIT <= limit * UNIT

    if cost <= limit:
        assert fits(wait) and (wait == 0 or not fits(wait - 1))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0ms"), (0.12, "120ms"), (1, "1s"), (1.5, "1.5s"), (360, "6m0s"), (61.25, "1m1.25s")],
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
