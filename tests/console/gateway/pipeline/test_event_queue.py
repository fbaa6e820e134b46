"""Where choices meet: order per choice, merging for slow readers, errors last."""

from __future__ import annotations

import asyncio
import time

import pytest

from console.gateway.pipeline.event_queue import Inbox
from inference.protocol.events import Delta, Finish, FinishReason, Usage

FINISH = Finish(FinishReason.STOP, Usage())


def delta(text: str) -> Delta:
    return Delta(text, (ord(text),))


async def test_deltas_of_a_choice_are_merged_until_they_are_read() -> None:
    inbox = Inbox()
    for text in "abc":
        inbox.add(0, delta(text))
    inbox.add(1, delta("z"))
    assert await inbox.next(1) == (0, Delta("abc", (97, 98, 99)))
    assert await inbox.next(1) == (1, delta("z"))


async def test_a_finish_comes_after_all_of_its_text() -> None:
    inbox = Inbox()
    inbox.add(0, delta("a"))
    inbox.add(0, FINISH)
    assert [await inbox.next(1), await inbox.next(1)] == [(0, delta("a")), (0, FINISH)]


async def test_an_error_is_raised_once_everything_before_it_was_read() -> None:
    inbox = Inbox()
    inbox.add(0, delta("a"))
    inbox.fail(ValueError("first"))
    inbox.fail(ValueError("second"))
    assert await inbox.next(1) == (0, delta("a"))
    with pytest.raises(ValueError, match="first"):
        await inbox.next(1)


async def test_silence_is_none() -> None:
    assert await Inbox().next(0.001) is None


async def test_silence_counts_from_the_last_question() -> None:
    """One timer serves all questions; it must ring neither for an earlier one nor too late for a shorter."""
    inbox = Inbox()
    loop = asyncio.get_running_loop()
    loop.call_later(0.05, inbox.add, 0, delta("a"))
    assert await inbox.next(0.1) == (0, delta("a"))
    asked = time.monotonic()
    assert await inbox.next(0.2) is None
    assert time.monotonic() - asked >= 0.19
    loop.call_later(0.01, inbox.add, 0, delta("b"))
    assert await inbox.next(60) == (0, delta("b"))
    async with asyncio.timeout(30):
        assert await inbox.next(0.05) is None
    inbox.close()


async def test_a_reader_that_left_misses_nothing() -> None:
    inbox = Inbox()
    reading = asyncio.ensure_future(inbox.next(60))
    await asyncio.sleep(0)
    reading.cancel()
    await asyncio.wait([reading])
    inbox.add(0, delta("a"))
    assert await inbox.next(1) == (0, delta("a"))
    inbox.close()
