"""Ten canaries there and back under traffic: nothing fails, is cut or mixed, and every undo is quick."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.flow.house import House
from tests.flow.traffic import Steering, Traffic, assert_sound, roll_there_and_back

pytestmark = pytest.mark.server

NUM_ROUNDS = 10
UNDO_SECONDS = 2.0


def test_ten_canaries_there_and_back_are_not_noticed(tmp_path: Path) -> None:
    with House(tmp_path) as house:
        house.ask("offer", "stub", "stub-2")
        steering, key = Steering(house), house.new_key("traffic")
        with Traffic(house, key) as traffic:
            undos = [
                roll_there_and_back(traffic, steering, route="stub", old="stub-1", new="stub-2", pause=5)
                for _ in range(NUM_ROUNDS)
            ]
    assert_sound(traffic.answers, revisions={"stub-1", "stub-2"})
    seconds = [undo.seconds for undo in undos]
    print(f"{len(traffic.answers)} requests; undo took {min(seconds):.2f} to {max(seconds):.2f} s")
    assert max(seconds) < UNDO_SECONDS
