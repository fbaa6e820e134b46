"""Whatever becomes of an execution, its request is settled once and lets go of its revision."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

import pytest

from console.gateway import drain
from console.gateway.drain import RevisionLease
from console.gateway.pipeline import generation, settlement
from console.gateway.pipeline.accepted import Accepted
from console.gateway.pipeline.settlement import Settling
from inference.protocol.requests import Sampling
from inference.protocol.stats import Stats
from monitoring.live import BOARD
from tests.console.gateway.accepted import accepted

Settled = list[tuple[Any, Exception | None]]


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> Settled:
    """What was settled: the execution and the error."""
    found: Settled = []

    async def finish_and_settle(_: Accepted, execution: Any, *, error: Exception | None) -> None:
        await asyncio.sleep(0)
        found.append((execution, error))

    monkeypatch.setattr(settlement, "finish_and_settle", finish_and_settle)
    monkeypatch.setattr(drain, "_leases", {})  # those of other tests end when they are collected
    return found


class Execution:
    def progress(self) -> None: ...

    def abort(self) -> None: ...


def one() -> Accepted:
    request = accepted(sampling=Sampling(), slice_tokens=8)
    request.lease.release()
    return replace(request, lease=RevisionLease("leased"))


def num_leases() -> int:
    return drain.requests_by_revision(Stats(revisions=()))["leased"]


async def test_an_end_settles_what_ran(settled: Settled) -> None:
    execution: Any = Execution()
    async with Settling(one()) as settling:
        in_flight = settling.begin(execution)
        assert BOARD.find(in_flight.request_id) is in_flight and num_leases() == 1
    assert settled == [(execution, None)]
    assert BOARD.find(in_flight.request_id) is None and num_leases() == 0


async def test_what_was_settled_within_is_not_settled_again(settled: Settled) -> None:
    with pytest.raises(ValueError, match="later"):
        async with Settling(one()) as settling:
            await settling.settle()
            raise ValueError("later")
    assert settled == [(None, None)] and num_leases() == 0


async def test_an_error_is_settled_as_such_also_where_nothing_ran_yet(
    settled: Settled, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = RuntimeError("no engine")

    def no_engine() -> None:
        raise error

    monkeypatch.setattr(generation.client, "current", no_engine)
    with pytest.raises(RuntimeError, match="no engine"):
        await anext(generation.generate(one()))
    assert settled == [(None, error)] and num_leases() == 0


async def events(settling: Settling) -> AsyncGenerator[int, None]:
    async with settling:
        yield 1
        await asyncio.Event().wait()


async def test_a_reader_that_leaves_is_no_error(settled: Settled) -> None:
    reading = events(Settling(one()))
    await anext(reading)
    await reading.aclose()
    assert settled == [(None, None)] and num_leases() == 0


async def test_a_cancelled_task_settles_before_it_ends(settled: Settled) -> None:
    async def read() -> None:
        async for _ in events(Settling(one())):
            pass

    task = asyncio.create_task(read())
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert settled == [(None, None)] and num_leases() == 0
