"""How async code reads the database: a few threads with connections of their own, never one per request.

A request may stream for minutes; a thread and a connection held that long would run out under load.
Writes of the hot path go through `group_commit.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

from django.db import Error, connection

T = TypeVar("T")

NUM_READERS = 4


@lru_cache(maxsize=1)
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(NUM_READERS, thread_name_prefix="database-reader")


async def read(query: Callable[[], T]) -> T:
    """Run a query in a reader thread. It must return values or loaded rows, not an unevaluated queryset."""
    return await asyncio.get_running_loop().run_in_executor(_readers(), _run, query)


def _run(query: Callable[[], T]) -> T:
    try:
        return query()
    except Error:
        connection.close()  # the next query starts on a fresh connection
        raise
    finally:
        # A pooled connection goes back to its pool; an SQLite file stays open: opening costs more.
        if connection.vendor != "sqlite":
            connection.close()
