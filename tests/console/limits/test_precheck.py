"""A key's rates are asked before its prompt is worked on: a refused one costs a request, a good one one."""

from __future__ import annotations

import asyncio

import pytest
from asgiref.sync import sync_to_async

from console.audit.actor import Actor
from console.keys.actions import IssuedKey
from console.limits.actions import Limits, set_limits
from console.limits.models import Limit
from console.limits.precheck import count_request, require_room
from console.limits.reserve import LimitExceeded, reserve
from tests.console.limits.requests import caller_of

pytestmark = pytest.mark.django_db(transaction=True)


async def limited(issued: IssuedKey, **limits: int) -> None:
    await sync_to_async(set_limits)(actor=Actor.person("test"), key=issued.key, limits=Limits(**limits))


async def test_of_many_at_once_as_many_are_let_in_as_may_ask(issued: IssuedKey) -> None:
    await limited(issued, requests_per_minute=3)
    caller = caller_of(issued.key)
    answers = await asyncio.gather(*(count_request(caller) for _ in range(40)), return_exceptions=True)
    assert [one for one in answers if one is True] == [True] * 3
    assert all(isinstance(one, LimitExceeded) for one in answers if one is not True)


async def test_one_that_asked_is_counted_once(issued: IssuedKey) -> None:
    await limited(issued, requests_per_minute=2)
    caller = caller_of(issued.key)
    for number in range(2):
        assert await count_request(caller)
        ticket = await reserve(
            caller=caller, request_id=f"r{number}", prompt_tokens=1, output_tokens=1, is_counted=True
        )
        assert ticket.buckets[0].num_remaining == 1 - number
    with pytest.raises(LimitExceeded) as refusal:
        await count_request(caller)
    assert refusal.value.retry_after_seconds and refusal.value.buckets[0].num_remaining == 0


async def test_a_spent_budget_and_a_full_rate_of_tokens_are_known_before(issued: IssuedKey) -> None:
    await limited(issued, budget_tokens=100)
    caller = caller_of(issued.key)
    assert await count_request(caller) is False
    await Limit.objects.filter(key=issued.key).aupdate(used_tokens=99)
    with pytest.raises(LimitExceeded) as refusal:
        await count_request(caller)
    assert refusal.value.code == "insufficient_quota"
    await limited(issued, tokens_per_minute=10)
    await reserve(caller=caller, request_id="r", prompt_tokens=9, output_tokens=1)
    with pytest.raises(LimitExceeded) as too_fast:
        await count_request(caller)
    assert too_fast.value.code == "rate_limit_exceeded"


async def test_looking_counts_nothing_and_a_key_without_limits_is_not_counted(issued: IssuedKey) -> None:
    caller = caller_of(issued.key)
    assert await require_room(caller) is None and await count_request(caller) is False
    await limited(issued, requests_per_minute=1)
    for _ in range(5):
        await require_room(caller)
    assert await count_request(caller)
