"""Reserving tokens: exact at the boundary, whoever races."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import pytest
from asgiref.sync import sync_to_async
from django.db import IntegrityError, connection, transaction
from django.db.models import F
from django.utils import timezone

from console.accounts.caller import Caller
from console.accounts.models import User
from console.audit.actor import Actor
from console.database.group_commit import ledger
from console.keys.actions import IssuedKey, revoke
from console.keys.models import ApiKey
from console.limits.actions import set_budget
from console.limits.models import Limit, Ticket
from console.limits.reserve import DuplicateRequest, LimitExceeded, extend, reserve
from console.limits.settle import settle
from console.usage.models import UsageRecord
from tests.console.limits.requests import caller_of, ended

pytestmark = pytest.mark.django_db(transaction=True)


async def budget(issued: IssuedKey, tokens: int) -> Caller:
    await sync_to_async(set_budget)(actor=Actor.person("test"), key=issued.key, budget_tokens=tokens)
    return caller_of(issued.key)


async def test_a_reservation_takes_the_prompt_and_a_slice(issued: IssuedKey) -> None:
    caller = await budget(issued, 1000)
    ticket = await reserve(caller=caller, request_id="r1", prompt_tokens=100, output_tokens=256)
    limit = await Limit.objects.aget()
    assert (ticket.granted_tokens, limit.reserved_tokens, limit.used_tokens) == (256, 356, 0)


async def test_what_is_left_is_granted_when_it_is_less_than_a_slice(issued: IssuedKey) -> None:
    caller = await budget(issued, 110)
    ticket = await reserve(caller=caller, request_id="r1", prompt_tokens=100, output_tokens=256)
    assert ticket.granted_tokens == 10
    assert not await extend(ticket, output_tokens=256)
    assert ticket.granted_tokens == 10


async def test_a_request_that_can_never_fit_is_told_so(issued: IssuedKey) -> None:
    caller = await budget(issued, 100)
    with pytest.raises(LimitExceeded) as refusal:
        await reserve(caller=caller, request_id="r1", prompt_tokens=100, output_tokens=1)
    assert (refusal.value.code, refusal.value.retry_after_seconds) == ("insufficient_quota", None)
    assert not await Ticket.objects.aexists()
    assert (await Limit.objects.aget()).reserved_tokens == 0


async def test_a_request_that_fits_once_others_have_ended_is_told_to_come_again(issued: IssuedKey) -> None:
    caller = await budget(issued, 300)
    await reserve(caller=caller, request_id="r1", prompt_tokens=50, output_tokens=250)
    with pytest.raises(LimitExceeded) as refusal:
        await reserve(caller=caller, request_id="r2", prompt_tokens=50, output_tokens=1)
    assert (refusal.value.code, refusal.value.retry_after_seconds) == ("rate_limit_exceeded", 1.0)


async def test_an_extension_adds_to_ticket_and_limit(issued: IssuedKey) -> None:
    caller = await budget(issued, 1000)
    ticket = await reserve(caller=caller, request_id="r1", prompt_tokens=100, output_tokens=256)
    assert await extend(ticket, output_tokens=256)
    kept = await Ticket.objects.aget()
    assert ticket.granted_tokens == kept.output_tokens == 512
    assert (await Limit.objects.aget()).reserved_tokens == 612


async def test_a_key_without_limit_gets_a_ticket_and_all_it_asks_for(issued: IssuedKey) -> None:
    ticket = await reserve(
        caller=caller_of(issued.key), request_id="r1", prompt_tokens=10**6, output_tokens=256
    )
    assert await extend(ticket, output_tokens=256)
    assert (await Ticket.objects.aget()).output_tokens == 512


async def test_a_revoked_key_gets_no_further_slice(issued: IssuedKey) -> None:
    caller = await budget(issued, 10_000)
    ticket = await reserve(caller=caller, request_id="r1", prompt_tokens=1, output_tokens=256)
    await sync_to_async(revoke)(actor=Actor.person("test"), key=issued.key)
    assert not await extend(ticket, output_tokens=256)
    assert (await Limit.objects.aget()).reserved_tokens == 257


async def test_an_expired_key_gets_no_further_slice(issued: IssuedKey) -> None:
    ticket = await reserve(caller=caller_of(issued.key), request_id="r1", prompt_tokens=1, output_tokens=256)
    past = timezone.now() - timedelta(seconds=1)
    await ApiKey.objects.aupdate(expires_at=past)
    assert not await extend(ticket, output_tokens=256)


async def test_a_deactivated_person_gets_no_further_slice(team: object) -> None:
    user = await User.objects.acreate(username="mara")
    caller = Caller("session", f"user:{user.pk}", "mara", team.pk, "salt", user_pk=user.pk)  # type: ignore[attr-defined]
    ticket = await reserve(caller=caller, request_id="r1", prompt_tokens=1, output_tokens=256)
    assert await extend(ticket, output_tokens=1)
    await User.objects.aupdate(is_active=False)
    assert not await extend(ticket, output_tokens=1)


async def test_a_settled_ticket_cannot_be_extended(issued: IssuedKey) -> None:
    caller = await budget(issued, 1000)
    ticket = await reserve(caller=caller, request_id="r1", prompt_tokens=1, output_tokens=1)
    await settle(ticket, record=ended(prompt_tokens=1, completion_tokens=1))
    assert not await extend(ticket, output_tokens=10)
    assert (await Limit.objects.aget()).reserved_tokens == 0


async def test_a_request_id_is_accepted_once(issued: IssuedKey) -> None:
    caller = await budget(issued, 1000)
    ticket = await reserve(caller=caller, request_id="r1", prompt_tokens=1, output_tokens=1)
    with pytest.raises(DuplicateRequest):
        await reserve(caller=caller, request_id="r1", prompt_tokens=1, output_tokens=1)
    await settle(ticket, record=ended())
    with pytest.raises(DuplicateRequest):
        await reserve(caller=caller, request_id="r1", prompt_tokens=1, output_tokens=1)
    assert (await Limit.objects.aget()).reserved_tokens == 0


async def test_a_client_that_leaves_while_reserving_leaves_nothing_behind(issued: IssuedKey) -> None:
    caller = await budget(issued, 1000)
    leaving = asyncio.create_task(reserve(caller=caller, request_id="r1", prompt_tokens=1, output_tokens=1))
    await asyncio.sleep(0)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    for _ in range(2):  # the reservation is written, then given back: the queue keeps its order
        await ledger().commit(lambda: None)
    assert not await Ticket.objects.aexists()
    assert (await Limit.objects.aget()).reserved_tokens == 0
    assert not await UsageRecord.objects.aexists()


def test_the_database_itself_refuses_an_overspend(issued: IssuedKey) -> None:
    set_budget(actor=Actor.person("test"), key=issued.key, budget_tokens=10)
    with pytest.raises(IntegrityError), transaction.atomic():
        Limit.objects.update(used_tokens=6, reserved_tokens=5)


async def test_a_race_at_the_boundary_spends_all_and_not_one_more(issued: IssuedKey) -> None:
    caller = await budget(issued, 5_000)
    draw = random.Random(7)
    spent = 0

    async def client(number: int) -> None:
        nonlocal spent
        for turn in range(40):
            wanted = draw.randint(1, 60)
            try:
                ticket = await reserve(
                    caller=caller, request_id=f"{number}-{turn}", prompt_tokens=5, output_tokens=wanted
                )
            except LimitExceeded as refusal:
                if refusal.code == "insufficient_quota":
                    return
                await asyncio.sleep(0.002)
                continue
            if draw.random() < 0.5:
                await extend(ticket, output_tokens=draw.randint(1, 30))
            used = draw.randint(0, ticket.granted_tokens)
            await settle(ticket, record=ended(prompt_tokens=5, completion_tokens=used))
            spent += 5 + used

    await asyncio.gather(*(client(number) for number in range(32)))
    limit = await Limit.objects.aget()
    ledger_total = sum([row.prompt_tokens + row.completion_tokens async for row in UsageRecord.objects.all()])
    assert limit.reserved_tokens == 0
    assert spent == ledger_total == limit.used_tokens <= 5_000
    assert limit.free_tokens < 6  # what is left holds no prompt and a token


def test_one_update_decides_whatever_was_read_before(issued: IssuedKey) -> None:
    """Two processes that both saw room: the second UPDATE sees the first one's."""
    from console.limits.reserve import _take

    set_budget(actor=Actor.person("test"), key=issued.key, budget_tokens=100)
    limit = Limit.objects.get()
    stale_free = limit.free_tokens
    Limit.objects.update(reserved_tokens=F("reserved_tokens") + 90)
    assert stale_free == 100
    assert _take(limit.pk, fixed=0, wanted=stale_free) == 10
    assert _take(limit.pk, fixed=1, wanted=1) == 0
    assert connection.vendor in {"sqlite", "postgresql"}
