"""The board of what is in flight: states by the engine's snapshot, and a cancel that reaches the engine."""

from __future__ import annotations

import pytest

from inference.protocol.stats import RevisionStats, Stats
from monitoring.live import Board, InFlight, Progress, State, sights

Calls = list[str]


def in_flight(
    request_id: str = "r", *, output_tokens: int = 0, num_ended: int = 0, calls: Calls | None = None
) -> InFlight:
    return InFlight(
        request_id=request_id,
        choice_ids=(f"{request_id}-0", f"{request_id}-1"),
        owner="k",
        owner_name="program",
        model="m",
        revision="m-1",
        transport="sse",
        prompt_tokens=3,
        arrived=90.0,
        progress=lambda: Progress(output_tokens, num_ended),
        abort=lambda: (calls if calls is not None else []).append(request_id),
    )


@pytest.mark.parametrize(
    ("output_tokens", "num_ended", "running", "state"),
    [
        (0, 0, (), State.QUEUED),
        (0, 0, ("r-1",), State.PREFILL),
        (5, 0, ("r-0", "r-1"), State.DECODE),
        (5, 1, ("r-1",), State.DECODE),
        (5, 0, ("other-0",), State.PREEMPTED),
        (5, 2, (), State.ENDING),
    ],
)
def test_a_state_follows_from_the_batch_and_what_came_out(
    output_tokens: int, num_ended: int, running: tuple[str, ...], state: State
) -> None:
    stats = Stats((RevisionStats("other"), RevisionStats("m-1", running=running)))
    request = in_flight(output_tokens=output_tokens, num_ended=num_ended)
    (sight,) = sights([request], stats, now=100.0)
    assert (sight.state, sight.output_tokens, sight.age_seconds) == (state, output_tokens, 10.0)


def test_without_an_engine_everybody_waits() -> None:
    (sight,) = sights([in_flight()], None, now=100.0)
    assert sight.state is State.QUEUED


def test_the_board_shows_the_oldest_and_forgets_who_left() -> None:
    board = Board()
    first, second, third = (board.enter(in_flight(name)) for name in ("a", "b", "c"))
    assert board.oldest(2) == [first, second]
    board.leave(first)
    board.leave(first)
    assert (len(board), board.find("a"), board.oldest(9)) == (2, None, [second, third])


def test_cancel_is_remembered_and_reaches_the_engine() -> None:
    calls: Calls = []
    request = in_flight(calls=calls)
    assert not request.is_cancelled
    request.cancel()
    assert request.is_cancelled and calls == ["r"]
