"""Tickets that outlived their server: the requests that a crash cut off, settled when a server starts."""

from __future__ import annotations

import logging
from collections import Counter
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

from django.conf import settings
from django.utils import timezone

from console.database.group_commit import ledger
from console.database.process_lease import is_running, own_lease
from console.limits.models import Ticket
from console.limits.settle import settle_now
from console.usage.record import Settlement
from monitoring.metrics import observe_lost

logger = logging.getLogger(__name__)

# A server whose lease is not in our DATA_DIR may run on another host: no request lives this long.
UNKNOWN_AFTER = timedelta(hours=2)


def settle_orphans() -> Counter[str]:
    """Settle the tickets of servers that are no more; how many each had. Blocks; called at start.

    Each becomes a ledger row with outcome `failed` and code `server_died`, and its whole reservation is
    charged. How much the client had received died with the server; it may have been anything up to the
    reservation, for the engine never delivers past what is reserved. So the reservation is the least
    charge that is never below what was delivered, and at most one slice above it; charging less would
    let a key overspend by whatever a crash forgot.
    """
    orphans = [
        (ticket, ledger().submit(partial(settle_now, ticket.request_id, settlement=death_of(ticket))))
        for server in Ticket.objects.values_list("server", flat=True).distinct()
        for ticket in abandoned_by(server)
    ]
    lost: Counter[str] = Counter()
    for ticket, settled in orphans:
        if settled.result():
            lost[ticket.server] += 1
            observe_lost(**_labels(death_of(ticket)))
    forget_dead_leases()
    if lost:
        logger.warning("settled %d requests that a server left behind", lost.total())
    return lost


def _labels(death: Settlement) -> dict[str, Any]:
    names = ("model", "revision", "endpoint", "transport", "prompt_tokens", "completion_tokens", "error_code")
    return {name: getattr(death, name) for name in names}


def abandoned_by(server: str) -> list[Ticket]:
    """A server's open tickets, if it is known or must be taken to be dead."""
    running = is_running(server) if server != own_lease().server else True
    if running:
        return []
    tickets = Ticket.objects.filter(server=server)
    if running is None:
        tickets = tickets.filter(created_at__lt=timezone.now() - UNKNOWN_AFTER)
    return list(tickets)


def death_of(ticket: Ticket) -> Settlement:
    return Settlement(
        model=ticket.model,
        revision=ticket.revision,
        endpoint=ticket.endpoint,
        transport=cast(Literal["rest", "sse", "websocket", ""], ticket.transport),
        outcome="failed",
        error_code="server_died",
        prompt_tokens=ticket.prompt_tokens,
        completion_tokens=ticket.output_tokens,
        created_at=ticket.created_at,
    )


def forget_dead_leases() -> None:
    """Remove the lock files of dead servers that have no ticket left."""
    for path in Path(settings.LEASE_DIR).iterdir():
        has_tickets = Ticket.objects.filter(server=path.name).exists()
        if path.suffix != ".part" and not has_tickets and is_running(path.name) is False:
            path.unlink(missing_ok=True)
