"""Settling: once, exactly, and whatever the engine reports."""

from __future__ import annotations

import asyncio

import pytest
from asgiref.sync import sync_to_async

from console.audit.actor import Actor
from console.database.group_commit import ledger
from console.keys.actions import IssuedKey
from console.limits.actions import set_budget
from console.limits.models import Limit, Ticket
from console.limits.reserve import reserve
from console.limits.settle import settle
from console.usage.models import UsageRecord
from tests.console.limits.requests import caller_of, ended

pytestmark = pytest.mark.django_db(transaction=True)


async def reserved(issued: IssuedKey, request_id: str = "r1") -> Ticket:
    await sync_to_async(set_budget)(actor=Actor.person("test"), key=issued.key, budget_tokens=1000)
    return await reserve(
        caller=caller_of(issued.key), request_id=request_id, prompt_tokens=100, output_tokens=256
    )


async def test_what_was_used_is_charged_and_the_rest_given_back(issued: IssuedKey) -> None:
    ticket = await reserved(issued)
    await settle(ticket, record=ended(prompt_tokens=100, completion_tokens=7, end_user="eva"))
    limit, row = await Limit.objects.aget(), await UsageRecord.objects.aget()
    assert (limit.used_tokens, limit.reserved_tokens) == (107, 0)
    assert (row.request_id, row.owner, row.key_id) == ("r1", issued.key.public_id, issued.key.pk)
    assert (row.prompt_tokens, row.completion_tokens, row.end_user) == (100, 7, "eva")
    assert not await Ticket.objects.aexists()


async def test_settling_again_changes_nothing(issued: IssuedKey) -> None:
    ticket = await reserved(issued)
    record = ended(prompt_tokens=100, completion_tokens=7)
    await asyncio.gather(*(settle(ticket, record=record) for _ in range(5)))
    for _ in range(3):
        await settle(ticket, record=ended(prompt_tokens=100, completion_tokens=99, outcome="cancelled"))
    limit, row = await Limit.objects.aget(), await UsageRecord.objects.aget()
    assert (limit.used_tokens, limit.reserved_tokens) == (107, 0)
    assert (row.completion_tokens, row.outcome) == (7, "finished")


async def test_an_engine_that_overran_loses_no_row_and_breaks_no_budget(
    issued: IssuedKey, caplog: pytest.LogCaptureFixture
) -> None:
    ticket = await reserved(issued)
    await settle(ticket, record=ended(prompt_tokens=100, completion_tokens=5000))
    limit, row = await Limit.objects.aget(), await UsageRecord.objects.aget()
    assert (limit.used_tokens, limit.reserved_tokens, row.completion_tokens) == (1000, 0, 5000)
    assert "used 5100 tokens of 356 reserved" in caplog.text


async def test_a_waiter_that_is_cancelled_does_not_stop_the_settlement(issued: IssuedKey) -> None:
    ticket = await reserved(issued)
    waiter = asyncio.create_task(settle(ticket, record=ended(prompt_tokens=100)))
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    await ledger().commit(lambda: None)
    assert (await UsageRecord.objects.aget()).request_id == "r1"


@pytest.mark.parametrize("name", ["x" * 5000, "nul\x00", "half a \ud800 character", "\U0001d11e" * 300])
async def test_no_name_of_the_end_user_loses_the_row(name: str, issued: IssuedKey) -> None:
    ticket = await reserved(issued)
    await settle(ticket, record=ended(end_user=name))
    assert 0 < len((await UsageRecord.objects.aget()).end_user) <= 200


async def test_counts_cannot_be_negative() -> None:
    with pytest.raises(ValueError, match="negative"):
        ended(prompt_tokens=-1)


async def test_a_budget_cannot_sink_below_what_is_taken(issued: IssuedKey) -> None:
    from console.limits.actions import BudgetTooSmall

    await reserved(issued)
    with pytest.raises(BudgetTooSmall, match="356"):
        await sync_to_async(set_budget)(actor=Actor.person("test"), key=issued.key, budget_tokens=355)
    await sync_to_async(set_budget)(actor=Actor.person("test"), key=issued.key, budget_tokens=356)
