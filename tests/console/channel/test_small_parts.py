"""Budgets of frames, queues that know when they are full, readers that stall, and what a head alone tells."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from console.channel.arrivals import MOST_BYTES, MOST_MESSAGES, Arrivals
from console.channel.frames import FrameBudget
from console.channel.head import body_bound, body_bounds, why_refused
from console.channel.limits import Room
from console.channel.stall import LEAST_BYTES, MOST_PERIODS, StallWatch


def test_frames_come_at_a_rate_whatever_their_timing() -> None:
    budget, taken, now = FrameBudget(per_second=50, at_once=100, now=0.0), 0, 0.0
    while now < 10:
        wait = budget.seconds_until_next(now)
        if wait:
            now += wait
        else:
            budget.take(now)
            taken += 1
    assert 500 <= taken <= 100 + 50 * 11


async def test_arrivals_are_full_by_number_or_by_size_and_tell_when_one_is_taken() -> None:
    arrivals, told = Arrivals(), []
    arrivals.when_taken = lambda: told.append(arrivals.is_full)
    for _ in range(MOST_MESSAGES):
        assert not arrivals.is_full
        arrivals.put_nowait({"type": "websocket.receive", "text": "x"})
    assert arrivals.is_full
    await arrivals.get()
    await asyncio.sleep(0)
    assert told == [False]
    arrivals.put_nowait({"type": "websocket.receive", "bytes": b"x" * MOST_BYTES, "text": None})
    assert arrivals.is_full


class Transport:
    """What waits in a Twisted transport."""

    def __init__(self, waiting: int) -> None:
        self.dataBuffer, self.offset, self._tempDataLen = b"x" * waiting, 0, 0


@pytest.mark.parametrize(
    ("waiting", "taken_each", "is_cut"),
    [
        (20_000, 0, True),
        (20_000, 19_999, True),  # a small answer is taken whole
        (10_000_000, LEAST_BYTES, True),  # a large one in some periods
        (10_000_000, 10_000_000 // MOST_PERIODS, False),
        (500_000, LEAST_BYTES, False),
    ],
)
async def test_a_reader_must_come_along(waiting: int, taken_each: int, is_cut: bool) -> None:
    transport, cut = Transport(waiting), list[bool]()
    watch = StallWatch(transport, seconds=0.001, cut=lambda: cut.append(True))
    watch.begin()
    for _ in range(MOST_PERIODS + 1):
        transport.offset = min(waiting, transport.offset + taken_each)
        if transport.offset == waiting:
            watch.end()
            break
        watch._timer.cancel() if watch._timer else None
        watch._look()
        if cut:
            break
    assert bool(cut) is is_cut


def test_bodies_have_room_together() -> None:
    room = Room(100)
    assert room.take(60) and not room.take(41) and room.take(40)
    room.give_back(60)
    assert room.take(60)


PATHS = ["/v1/chat/completions", "/v1/models", "/v1/x", "/", "/admin/", "", "*", "/v1"]


@pytest.mark.parametrize("path", PATHS)
def test_each_path_has_a_bound_and_an_upgrade_none(path: str) -> None:
    bound = body_bound(path)
    assert bound in body_bounds().values()
    assert body_bound(path, is_upgrade=True) == 0
    headers = {"host": "here"}
    assert why_refused(headers, version="1.1", bound=bound, length=bound) is None
    assert why_refused(headers, version="1.1", bound=bound, length=None) is None
    refused = why_refused(headers, version="1.1", bound=bound, length=bound + 1)
    assert refused is not None and refused.status == 413


def test_a_head_is_refused_by_what_it_lacks_or_asks() -> None:
    cases: list[tuple[dict[str, str], str, int | None]] = [
        ({}, "1.1", 400),
        ({}, "1.0", None),
        ({"host": "a"}, "2", None),
        ({"host": "a", "content-encoding": "GZip"}, "1.1", 415),
        ({"host": "a", "content-encoding": "identity"}, "1.1", None),
        ({"host": "a", "content-encoding": "br, identity"}, "1.1", 415),
    ]
    for headers, version, status in cases:
        refused: Any = why_refused(headers, version=version, bound=10, length=0)
        assert (refused and refused.status) == status, headers
