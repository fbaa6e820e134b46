"""What a piece of work costs, counted: the same on a busy machine as on an idle one, as seconds are not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from django.db import connection
from django.test import Client

STEPS_A_TICK = 100


@dataclass
class Cost:
    """`calls`: functions called in this thread. `steps`: instructions of SQLite's virtual machine, 0 on other
    databases. `statements`: of this thread's connection.
    """

    calls: int = 0
    steps: int = 0
    statements: int = 0

    def is_within(self, other: Cost) -> bool:
        return self.calls <= other.calls and self.steps <= other.steps and self.statements <= other.statements


# Of a page or a list over very many rows. A row of 100,000 read into Python costs more than that in calls.
MOST_OF_A_PAGE = Cost(calls=600_000, steps=3_000_000, statements=25)


@contextmanager
def counted() -> Iterator[Cost]:
    """Counts until the end of the block, with Django's connection of this thread."""
    cost = Cost()

    def tick() -> int:
        cost.steps += STEPS_A_TICK
        return 0

    def execute(execute: Any, sql: str, parameters: Any, many: bool, context: Any) -> Any:
        cost.statements += 1
        return execute(sql, parameters, many, context)

    connection.ensure_connection()
    counts_steps = connection.vendor == "sqlite"
    if counts_steps:
        connection.connection.set_progress_handler(tick, STEPS_A_TICK)
    try:
        with connection.execute_wrapper(execute), counted_calls(cost):
            yield cost
    finally:
        if counts_steps:
            connection.connection.set_progress_handler(None, 0)


@contextmanager
def counted_calls(cost: Cost | None = None) -> Iterator[Cost]:
    """The calls alone, of what needs no database."""
    cost = cost or Cost()

    def called(frame: Any, event: str, argument: Any) -> None:
        cost.calls += event in ("call", "c_call")

    sys.setprofile(called)
    try:
        yield cost
    finally:
        sys.setprofile(None)


def costs_of_pages(client: Client, paths: list[str]) -> dict[str, Cost]:
    """Each page's second load: the first fills caches."""
    found = {}
    for path in paths:
        assert client.get(path).status_code == 200
        with counted() as cost:
            assert client.get(path).status_code == 200
        found[path] = cost
    return found
