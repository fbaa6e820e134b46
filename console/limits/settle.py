"""Settling: the reservation given back, what was used charged, the ledger row written, in one transaction."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from django.db import DEFAULT_DB_ALIAS, OperationalError
from django.db.models import F
from django.db.models.functions import Coalesce, Least

from console.database.group_commit import TRY_AGAIN_SECONDS, ledger
from console.database.prepared_statements import TEXT, Delete, Select, Slot, Update
from console.limits.models import Limit, Ticket
from console.limits.rates import added, moved, now_ms
from console.usage.record import Settlement
from console.usage.record import record as record_usage

logger = logging.getLogger(__name__)


async def settle(ticket: Ticket, *, record: Settlement) -> None:
    """Settle a request; returns when that is durable, however long the disk is full. Settling again changes
    nothing.
    """
    request_id = ticket.request_id
    while True:
        try:
            await ledger().commit(lambda: settle_now(request_id, settlement=record))
            return
        except OperationalError as error:
            logger.warning("request %s is not settled yet: %s", request_id, error)
        await asyncio.sleep(TRY_AGAIN_SECONDS)


def settle_now(request_id: str, *, settlement: Settlement) -> bool:
    """The same, inside a transaction that is already open. False: it was settled before."""
    ticket = release(request_id, charged_tokens=settlement.total_tokens)
    if ticket is None:
        return False
    record_usage(
        request_id=request_id,
        owner=ticket.owner,
        team_id=ticket.team_id,
        key_id=ticket.key_id,
        settlement=settlement,
    )
    return True


def release(request_id: str, *, charged_tokens: int = 0) -> Ticket | None:
    """Close the ticket and give back what it reserved, less the charge; the ticket, if it was still open."""
    row = _FIND.first(request_id=request_id)
    ticket = None if row is None else Ticket.from_db(DEFAULT_DB_ALIAS, TICKET_COLUMNS, row)
    if ticket is None or not _DELETE(pk=ticket.pk):
        return None  # settled before; of two at once, the one that deletes the row has it
    reserved = ticket.reserved_tokens  # as the database has it: extensions included
    if charged_tokens > reserved:
        logger.error("request %s used %d tokens of %d reserved", request_id, charged_tokens, reserved)
    if ticket.limit_id is not None:
        used = max(0, charged_tokens - ticket.counted_tokens)
        held = ticket.counted_tokens - reserved
        _GIVE_BACK(
            pk=ticket.limit_id,
            reserved=reserved,
            charged=charged_tokens,
            held=held,
            **added(now=now_ms(), used=used),
        )
    return ticket


def _given_back() -> dict[str, Any]:
    # Capped, so that even an engine that overran could not lose its ledger row to the constraint.
    charged = F("used_tokens") + Slot("charged")
    room = Coalesce(F("budget_tokens") - F("reserved_tokens") + Slot("reserved"), charged)
    return {
        "reserved_tokens": F("reserved_tokens") - Slot("reserved"),
        "used_tokens": Least(charged, room),
        **moved(),
    }


TICKET_COLUMNS = [one.attname for one in Ticket._meta.concrete_fields]
_FIND = Select(
    lambda: Ticket.objects.filter(request_id=Slot("request_id", TEXT)).values_list(*TICKET_COLUMNS)
)
_DELETE = Delete(lambda: Ticket.objects.filter(pk=Slot("pk")))
_GIVE_BACK = Update(lambda: (Limit.objects.filter(pk=Slot("pk")), _given_back()))
