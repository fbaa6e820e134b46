"""Settling: the reservation given back, what was used charged, the ledger row written, in one transaction."""

from __future__ import annotations

import logging

from django.db.models import F
from django.db.models.functions import Coalesce, Least

from console.group_commit import ledger
from console.limits.models import Limit, Ticket
from console.limits.rates import moved, now_ms
from console.usage.record import Settlement
from console.usage.record import record as record_usage

logger = logging.getLogger(__name__)


async def settle(ticket: Ticket, *, record: Settlement) -> None:
    """Settle a request; returns when that is durable. Settling again changes nothing."""
    request_id = ticket.request_id
    await ledger().commit(lambda: settle_now(request_id, settlement=record))


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
    ticket = Ticket.objects.filter(request_id=request_id).first()
    if ticket is None or not Ticket.objects.filter(pk=ticket.pk).delete()[0]:
        return None  # settled before; of two at once, the one that deletes the row has it
    reserved = ticket.reserved_tokens  # as the database has it: extensions included
    if charged_tokens > reserved:
        logger.error("request %s used %d tokens of %d reserved", request_id, charged_tokens, reserved)
    if ticket.limit_id is not None:
        # Capped, so that even an engine that overran could not lose its ledger row to the constraint.
        charged = F("used_tokens") + charged_tokens
        room = Coalesce(F("budget_tokens") - F("reserved_tokens") + reserved, charged)
        used = max(0, charged_tokens - ticket.counted_tokens)
        held = reserved - ticket.counted_tokens
        Limit.objects.filter(pk=ticket.limit_id).update(
            reserved_tokens=F("reserved_tokens") - reserved,
            used_tokens=Least(charged, room),
            **moved(now=now_ms(), used=used, held=-held),
        )
    return ticket
