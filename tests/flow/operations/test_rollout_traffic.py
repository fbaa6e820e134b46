"""A canary moves 0 -> 10 -> 50 -> 100 % and back under streaming traffic: nobody notices but by the revision.

Three quick rounds; tests/reliability does ten slower ones.
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from tests.flow.house import House, eventually
from tests.flow.traffic import Steering, Traffic, assert_sound, roll_there_and_back

pytestmark = [pytest.mark.server, pytest.mark.slow]

NUM_ROUNDS = 3
UNDO_SECONDS = 2.0


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with House(tmp_path_factory.mktemp("rollouts")) as house:
        house.ask("offer", "stub", "stub-2")
        house.ask("serve_also", "killed", "stub-1")
        yield house


def test_a_canary_there_and_back_is_not_noticed(house: House) -> None:
    steering, key = Steering(house), house.new_key("traffic")
    with Traffic(house, key) as traffic:
        undos = [
            roll_there_and_back(traffic, steering, route="stub", old="stub-1", new="stub-2", pause=1)
            for _ in range(NUM_ROUNDS)
        ]
    assert_sound(traffic.answers, revisions={"stub-1", "stub-2"})
    seconds = sorted(undo.seconds for undo in undos)
    print(f"{len(traffic.answers)} requests; undo took {', '.join(f'{one:.2f}' for one in seconds)} s")
    assert seconds[0] < UNDO_SECONDS  # the others may meet a busy machine; tests/reliability is strict


def test_a_rollout_goes_on_after_kill_9(house: House) -> None:
    steering, key = Steering(house), house.new_key("traffic after the kill")
    rollout = steering.start(route="killed", candidate="stub-2", steps=[(10, 4), (50, 1), (100, None)])
    steering.wait_for(rollout, step=1)
    house.process.kill()
    house.process.wait()
    house.restart()
    assert steering.look(rollout)["state"] == "stepping"
    steering.wait_for(rollout, step=3)
    with Traffic(house, key, model="killed") as traffic:
        time.sleep(1)
    assert_sound(traffic.answers, revisions={"stub-2"})
    steering.call("POST", f"rollouts/{rollout}/abort")
    eventually(lambda: steering.look(rollout)["shares"] == {"stub-1": 100})
    trail = [one["action"] for one in steering.call("GET", "audit?limit=200")["data"]]
    assert trail.count("rollout.step") >= 3
