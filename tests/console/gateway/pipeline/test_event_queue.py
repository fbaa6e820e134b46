"""Where choices meet: order per choice, merging for slow readers, errors last."""

from __future__ import annotations

import asyncio
import time

import pytest

from console.gateway.pipeline.event_queue import EventQueue
from inference.protocol.events import Delta, Finish, FinishReason, Usage

FINISH = Finish(FinishReason.STOP, Usage())


def delta(text: str) -> Delta:
    return Delta(text, (ord(text),))


async def test_deltas_of_a_choice_are_merged_until_they_are_read() -> None:
    queue = EventQueue()
    for text in "abc":
        queue.add(0, delta(text))
    queue.add(1, delta("z"))
    assert await queue.next(1) == (0, Delta("abc", (97, 98, 99)))
    assert await queue.next(1) == (1, delta("z"))


async def test_a_finish_comes_after_all_of_its_text() -> None:
    queue = EventQueue()
    queue.add(0, delta("a"))
    queue.add(0, FINISH)
    assert [await queue.next(1), await queue.next(1)] == [(0, delta("a")), (0, FINISH)]


async def test_an_error_is_raised_once_everything_before_it_was_read() -> None:
    queue = EventQueue()
    queue.add(0, delta("a"))
    queue.fail(ValueError("first"))
    queue.fail(ValueError("second"))
    assert await queue.next(1) == (0, delta("a"))
    with pytest.raises(ValueError, match="first"):
        await queue.next(1)


async def test_silence_is_none() -> None:
    assert await EventQueue().next(0.001) is None


async def test_silence_counts_from_the_last_question() -> None:
    """One timer serves all questions; it must ring neither for an earlier one nor too late for a shorter."""
    queue = EventQueue()
    loop = asyncio.get_running_loop()
    loop.call_later(0.05, queue.add, 0, delta("a"))
    assert await queue.next(0.1) == (0, delta("a"))
    asked = time.monotonic()
    assert await queue.next(0.2) is None
    assert time.monotonic() - asked >= 0.19
    loop.call_later(0.01, queue.add, 0, delta("b"))
    assert await queue.next(60) == (0, delta("b"))
    async with asyncio.timeout(30):
        assert await queue.next(0.05) is None
    queue.close()


async def test_a_reader_that_left_misses_nothing() -> None:
    queue = EventQueue()
    reading = asyncio.ensure_future(queue.next(60))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])
    queue.add(0, delta("a"))
    assert await queue.next(1) == (0, delta("a"))
    queue.close()
