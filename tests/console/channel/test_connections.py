"""Places for connections: by address and in all, and who gives way."""

from __future__ import annotations

import pytest

from console.channel.connections import Connections
from console.channel.descriptors import RESERVE, room_for_connections


class Opened:
    def __init__(self, connections: Connections) -> None:
        self.connections = connections
        self.closed: list[str] = []

    def enter(self, name: str, address: str) -> bool:
        return self.connections.enter(name, address, lambda: self.closed.append(name))


def test_the_one_that_waits_longest_gives_way_to_another_of_its_address() -> None:
    opened = Opened(Connections(most=100, most_per_address=3))
    assert all(opened.enter(f"a{n}", "1.1.1.1") for n in range(3))
    opened.connections.work("a0")  # the oldest, but it is being answered
    assert opened.enter("a3", "1.1.1.1")
    assert opened.closed == ["a1"]
    opened.connections.wait("a0", lambda: opened.closed.append("a0"))  # answered: now it waits, the shortest
    assert opened.enter("a4", "1.1.1.1") and opened.enter("a5", "1.1.1.1")
    assert opened.closed == ["a1", "a2", "a3"]
    assert opened.enter("b0", "2.2.2.2") and len(opened.connections) == 4


def test_who_is_being_answered_gives_way_to_nobody() -> None:
    opened = Opened(Connections(most=4, most_per_address=2))
    for name, address in [("a0", "1.1.1.1"), ("a1", "1.1.1.1"), ("b0", "2.2.2.2"), ("c0", "3.3.3.3")]:
        assert opened.enter(name, address)
        opened.connections.work(name)
    assert not opened.enter("a2", "1.1.1.1")
    assert not opened.enter("d0", "4.4.4.4")
    opened.connections.leave("a0")
    opened.connections.leave("a0")  # told twice
    assert opened.enter("a2", "1.1.1.1") and not opened.closed and len(opened.connections) == 4


def test_in_all_the_oldest_that_waits_gives_way_whosever_it_is() -> None:
    opened = Opened(Connections(most=50, most_per_address=10))
    assert all(opened.enter(f"{n}", f"9.9.{n}.1") for n in range(50))
    assert opened.enter("mine", "1.1.1.1")
    assert opened.closed == ["0"] and len(opened.connections) == 50


def test_a_proxy_has_as_many_as_there_are() -> None:
    connections = Connections(most=20, most_per_address=2, is_exempt=lambda address: address == "10.0.0.1")
    opened = Opened(connections)
    assert all(opened.enter(f"p{n}", "10.0.0.1") for n in range(20)) and not opened.closed


def test_nothing_is_remembered_of_who_left() -> None:
    connections = Connections(most=10, most_per_address=5)
    opened = Opened(connections)
    for round_ in range(100):
        for n in range(5):
            assert opened.enter(f"{round_}-{n}", f"1.1.{round_}.1")
            if n % 2:
                connections.work(f"{round_}-{n}")
        for n in range(5):
            connections.leave(f"{round_}-{n}")
    assert len(connections) == 0
    assert not (connections._counts or connections._waiting or connections._all_waiting)


@pytest.mark.parametrize(
    ("limit", "wanted", "room"),
    [(1024, 4096, 1024 - RESERVE), (256, 4096, 128), (1 << 20, 4096, 4096), (1, 10, 1)],
)
def test_some_descriptors_are_kept_for_the_database_and_files(limit: int, wanted: int, room: int) -> None:
    assert room_for_connections(limit, wanted=wanted) == room
