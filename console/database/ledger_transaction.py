"""Lets a change take its turn with the ledger, so that an undo is quick however busy the ledger is.

SQLite lets one write at a time and keeps no queue: under full load the ledger's transactions follow each
other so closely that others may wait for seconds. Inside the ledger's next transaction nobody waits.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import ParamSpec, TypeVar

from django.db import connection, transaction
from django.utils.translation import get_language, override

from console.database.group_commit import ledger

P = ParamSpec("P")
T = TypeVar("T")


def in_turn(change: Callable[P, T]) -> Callable[P, T]:
    """One transaction, durable when it returns. Inside of another transaction it is a part of that."""

    @wraps(change)
    def take_turn(*args: P.args, **kwargs: P.kwargs) -> T:
        if connection.in_atomic_block:
            with transaction.atomic():
                return change(*args, **kwargs)
        language = get_language()

        def work() -> T:
            with override(language):  # what is refused is said to whoever asked
                return change(*args, **kwargs)

        return ledger().submit(work).result()

    return take_turn
