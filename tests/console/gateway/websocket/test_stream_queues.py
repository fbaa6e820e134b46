"""StreamQueues: in order within, side by side between, bounded, and cancelled one by one."""

from __future__ import annotations

import asyncio

import pytest

from console.gateway.websocket.stream_queues import StreamLimitReached, StreamQueues


class Diary:
    """Work that notes its beginning and end, and waits for a word in between."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.go_on = asyncio.Event()

    async def perform(self, stream: str | None, work: str) -> None:
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


async def test_a_stream_works_in_order_and_streams_side_by_side() -> None:
    diary = Diary()
    streams = StreamQueues(diary.perform, max_streams=2, max_waiting=2, max_waiting_bytes=100)
    for stream, work in [("a", "a1"), ("a", "a2"), (None, "n1")]:
        streams.add(stream, work)
    await settle()
    assert diary.lines == ["a1 began", "n1 began"]
    diary.go_on.set()
    await streams.finish()
    assert diary.lines.index("a1 ended") < diary.lines.index("a2 began")
    assert streams.are_idle


async def test_a_cancel_ends_what_runs_and_lets_the_next_begin() -> None:
    diary = Diary()
    streams = StreamQueues(diary.perform, max_streams=1, max_waiting=1, max_waiting_bytes=100)
    streams.add("a", "a1")
    streams.add("a", "a2")
    await settle()
    assert await streams.cancel("a")
    await settle()
    assert diary.lines == ["a1 began", "a1 cancelled", "a2 began"]
    assert not await streams.cancel("b")
    await streams.close()
    assert diary.lines[-1] == "a2 cancelled"


async def test_streams_and_what_waits_in_them_are_bounded() -> None:
    streams = StreamQueues(Diary().perform, max_streams=1, max_waiting=1, max_waiting_bytes=100)
    streams.add("a", "a1")
    streams.add("a", "a2")
    with pytest.raises(StreamLimitReached, match="waiting"):
        streams.add("a", "a3")
    with pytest.raises(StreamLimitReached, match="streams"):
        streams.add("b", "b1")
    await streams.close()
    assert streams.are_idle


async def test_what_waits_is_bounded_by_its_size_too_and_gives_its_room_back() -> None:
    diary = Diary()
    streams = StreamQueues(diary.perform, max_streams=2, max_waiting=9, max_waiting_bytes=100)
    for stream in "ab":
        streams.add(stream, f"{stream}1", num_bytes=1000)  # it runs: it does not wait
    streams.add("a", "a2", num_bytes=60)
    with pytest.raises(StreamLimitReached, match="bytes"):
        streams.add("b", "b2", num_bytes=41)
    streams.add("b", "b2", num_bytes=40)
    diary.go_on.set()
    await streams.finish()
    diary.go_on.clear()
    streams.add("a", "a3")
    streams.add("a", "a4", num_bytes=100)
    await streams.close()
