"""Several servers on one database: nobody overspends, and nothing that could be spent is left."""

from __future__ import annotations

import random
import threading
import uuid

import pytest
from django.db import connection, transaction
from django.utils import timezone

from console.audit.actor import Actor
from console.keys.actions import IssuedKey
from console.limits.actions import set_budget
from console.limits.models import Limit, Ticket
from console.limits.reserve import LimitExceeded, _extend, _reserve
from console.limits.settle import settle_now
from console.usage.models import UsageRecord
from tests.console.limits.requests import ended

pytestmark = pytest.mark.django_db(transaction=True)

BUDGET = 3_000
NUM_SERVERS = 8


def spend(issued: IssuedKey, seed: int, barrier: threading.Barrier, failures: list[BaseException]) -> None:
    """A server's committer, without the others' queue: reserve, extend, settle until the budget is gone."""
    draw = random.Random(seed)
    try:
        barrier.wait()
        while True:
            ticket = Ticket(
                request_id=uuid.uuid4().hex,
                owner=issued.key.public_id,
                team_id=issued.key.team_id,
                key_id=issued.key.pk,
                prompt_tokens=draw.randint(1, 5),
                server=f"server-{seed}",
                created_at=timezone.now(),
            )
            try:
                with transaction.atomic():
                    _reserve(ticket, output_tokens=draw.randint(1, 80))
            except LimitExceeded as refusal:
                if refusal.code == "insufficient_quota":
                    return
                continue
            with transaction.atomic():
                ticket.output_tokens += _extend(ticket, output_tokens=draw.randint(1, 40), now=timezone.now())
            used = draw.choice([0, ticket.output_tokens, draw.randint(0, ticket.output_tokens)])
            with transaction.atomic():
                settle_now(
                    ticket.request_id,
                    settlement=ended(prompt_tokens=ticket.prompt_tokens, completion_tokens=used),
                )
    except BaseException as failure:
        failures.append(failure)
    finally:
        connection.close()


def test_servers_that_race_spend_the_budget_and_not_a_token_more(issued: IssuedKey) -> None:
    set_budget(actor=Actor.person("test"), key=issued.key, budget_tokens=BUDGET)
    barrier, failures = threading.Barrier(NUM_SERVERS), list[BaseException]()
    servers = [
        threading.Thread(target=spend, args=(issued, seed, barrier, failures)) for seed in range(NUM_SERVERS)
    ]
    for server in servers:
        server.start()
    for server in servers:
        server.join()
    assert failures == []
    limit = Limit.objects.get()
    ledger_total = sum(row.prompt_tokens + row.completion_tokens for row in UsageRecord.objects.all())
    assert not Ticket.objects.exists()
    assert (limit.reserved_tokens, limit.used_tokens) == (0, ledger_total)
    assert BUDGET - 6 < ledger_total <= BUDGET  # what is left holds no prompt of up to 5 and a token


def test_two_settlements_of_one_ticket_charge_once(issued: IssuedKey) -> None:
    set_budget(actor=Actor.person("test"), key=issued.key, budget_tokens=BUDGET)
    for turn in range(10):
        ticket = Ticket(
            request_id=f"r{turn}",
            owner=issued.key.public_id,
            team_id=issued.key.team_id,
            key_id=issued.key.pk,
            prompt_tokens=10,
            server="here",
            created_at=timezone.now(),
        )
        _reserve(ticket, output_tokens=10)
        barrier, results = threading.Barrier(4), list[bool]()

        def settle(
            barrier: threading.Barrier = barrier, results: list[bool] = results, turn: int = turn
        ) -> None:
            barrier.wait()
            with transaction.atomic():
                results.append(
                    settle_now(f"r{turn}", settlement=ended(prompt_tokens=10, completion_tokens=5))
                )
            connection.close()

        threads = [threading.Thread(target=settle) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(results) == [False, False, False, True]
    limit = Limit.objects.get()
    assert (limit.used_tokens, limit.reserved_tokens) == (150, 0)
