"""Lanes: in order within, side by side between, bounded, and cancelled one by one."""

from __future__ import annotations

import asyncio

import pytest

from console.gateway.websocket.stream_queues import Lanes, TooMuch


class Diary:
    """Work that notes its beginning and end, and waits for a word in between."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.go_on = asyncio.Event()

    async def perform(self, lane: str | None, work: str) -> None:
        self.lines.append(f"{work} began")
        try:
            await self.go_on.wait()
            self.lines.append(f"{work} ended")
        except asyncio.CancelledError:
            self.lines.append(f"{work} cancelled")
            raise


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_lane_works_in_order_and_lanes_side_by_side() -> None:
    diary = Diary()
    lanes = Lanes(diary.perform, max_lanes=2, max_waiting=2, max_waiting_bytes=100)
    for lane, work in [("a", "a1"), ("a", "a2"), (None, "n1")]:
        lanes.add(lane, work)
    await settle()
    assert diary.lines == ["a1 began", "n1 began"]
    diary.go_on.set()
    await lanes.finish()
    assert diary.lines.index("a1 ended") < diary.lines.index("a2 began")
    assert lanes.are_idle


async def test_a_cancel_ends_what_runs_and_lets_the_next_begin() -> None:
    diary = Diary()
    lanes = Lanes(diary.perform, max_lanes=1, max_waiting=1, max_waiting_bytes=100)
    lanes.add("a", "a1")
    lanes.add("a", "a2")
    await settle()
    assert await lanes.cancel("a")
    await settle()
    assert diary.lines == ["a1 began", "a1 cancelled", "a2 began"]
    assert not await lanes.cancel("b")
    await lanes.close()
    assert diary.lines[-1] == "a2 cancelled"


async def test_lanes_and_what_waits_in_them_are_bounded() -> None:
    lanes = Lanes(Diary().perform, max_lanes=1, max_waiting=1, max_waiting_bytes=100)
    lanes.add("a", "a1")
    lanes.add("a", "a2")
    with pytest.raises(TooMuch, match="waiting"):
        lanes.add("a", "a3")
    with pytest.raises(TooMuch, match="lanes"):
        lanes.add("b", "b1")
    await lanes.close()
    assert lanes.are_idle


async def test_what_waits_is_bounded_by_its_size_too_and_gives_its_room_back() -> None:
    diary = Diary()
    lanes = Lanes(diary.perform, max_lanes=2, max_waiting=9, max_waiting_bytes=100)
    for lane in "ab":
        lanes.add(lane, f"{lane}1", num_bytes=1000)  # it runs: it does not wait
    lanes.add("a", "a2", num_bytes=60)
    with pytest.raises(TooMuch, match="bytes"):
        lanes.add("b", "b2", num_bytes=41)
    lanes.add("b", "b2", num_bytes=40)
    diary.go_on.set()
    await lanes.finish()
    diary.go_on.clear()
    lanes.add("a", "a3")
    lanes.add("a", "a4", num_bytes=100)
    await lanes.close()
