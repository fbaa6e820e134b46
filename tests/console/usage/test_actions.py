"""Cancelling: the audit entry and the abort, both or neither."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from console.audit.actor import Actor
from console.audit.models import Entry
from console.usage.actions import NotInFlight, cancel_request
from monitoring.live import BOARD, InFlight, Progress


@pytest.fixture
def request_in_flight() -> Iterator[InFlight]:
    request = BOARD.enter(
        InFlight(
            request_id="chatcmpl-1",
            choice_ids=("chatcmpl-1-0",),
            owner="k",
            owner_name="program",
            model="m",
            revision="m-1",
            transport="sse",
            prompt_tokens=3,
            arrived=0.0,
            progress=lambda: Progress(output_tokens=7, num_ended=0),
            abort=lambda: None,
        )
    )
    yield request
    BOARD.leave(request)


@pytest.mark.django_db(transaction=True)
def test_a_cancel_is_written_down(request_in_flight: InFlight) -> None:
    cancel_request(actor=Actor.person("maria", ip="192.0.2.1"), request_id="chatcmpl-1")
    assert request_in_flight.is_cancelled
    entry = Entry.objects.get()
    assert (entry.actor, entry.action, entry.target) == (
        "maria",
        "request.cancelled",
        "request:chatcmpl-1",
    )
    assert '"output_tokens":7' in entry.detail


@pytest.mark.django_db(transaction=True)
def test_nothing_is_aborted_when_the_entry_cannot_be_written(
    request_in_flight: InFlight, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(**columns: object) -> None:
        raise RuntimeError("the audit log is full")

    monkeypatch.setattr("console.usage.actions.write", broken)
    with pytest.raises(RuntimeError):
        cancel_request(actor=Actor.person("maria"), request_id="chatcmpl-1")
    assert not request_in_flight.is_cancelled


def test_what_has_ended_cannot_be_cancelled(db: None) -> None:
    with pytest.raises(NotInFlight):
        cancel_request(actor=Actor.person("maria"), request_id="chatcmpl-2")
    assert not Entry.objects.exists()
