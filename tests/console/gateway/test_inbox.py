"""Where choices meet: order per choice, merging for slow readers, errors last."""

from __future__ import annotations

import pytest

from console.gateway.inbox import Inbox
from inference.protocol import Delta, Finish, FinishReason, Usage

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
