"""Cancelling a request in flight. The audit entry is written first."""

from __future__ import annotations

from django.db import transaction

from console.audit.actor import Actor
from console.audit.write import write
from console.database.after_commit import after_commit
from monitoring.live import BOARD


class NotInFlight(Exception):
    """No request of that id runs in this process: it ended, or never was."""


@transaction.atomic
def cancel_request(*, actor: Actor, request_id: str) -> None:
    """End a request: its client gets `request_cancelled`, what it used so far is charged."""
    request = BOARD.find(request_id)
    if request is None:
        raise NotInFlight(request_id)
    progress = request.progress()
    detail = {"owner": request.owner, "model": request.model, "output_tokens": progress.output_tokens}
    write(actor=actor, action="request.cancelled", target=f"request:{request_id}", detail=detail)
    after_commit(request.cancel, name="cancel request", is_shut_out=True)
