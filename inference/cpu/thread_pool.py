"""Threads that share the work of one compiled function: whoever is free takes the next share.

Nobody has a share of its own, so a thread that comes late, or never, leaves its work to the others.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numba import njit, types

from inference.cpu import buffers
from inference.cpu.atomics import add_atomically, read_atomically
from inference.cpu.buffers import ALIGNMENT, aligned

LINE = ALIGNMENT  # bytes that threads fight for together
COUNTERS = 2 * LINE  # of a phase: shares taken, and shares done
PATIENCE = 100_000  # looks at a counter, some ten microseconds, before the core is left to others

NAP = 1  # microsecond, in fact some fifty; the kernel then wakes the thread on a core that is idle

sleep = types.ExternalFunction("usleep", types.int32(types.uint32))


@njit
def next_share(board, phase, num_shares):
    """The number of a share of a phase that nobody has taken; -1 when all of them are done."""
    taken = board + phase * COUNTERS
    share = add_atomically(taken, 1)
    if share < num_shares:
        return share
    looks = 0
    while read_atomically(taken + LINE) < num_shares:
        looks += 1
        if looks > PATIENCE:
            sleep(np.uint32(NAP))
            looks = 0
    return -1


@njit
def finish(board, phase):
    """A share of the phase is done."""
    add_atomically(board + phase * COUNTERS + LINE, 1)


class Crew:
    """Runs a compiled function on several threads at once, the caller's among them."""

    def __init__(self) -> None:
        self._helpers = ThreadPoolExecutor(os.cpu_count() or 1, "cpu-crew")  # started when they are wanted

    def run(self, function: Callable[..., None], *args: Any, num_phases: int, num_threads: int) -> None:
        """Calls function(board, thread, *args) in each thread; back when the last has ended."""
        board = buffers.new([num_phases * COUNTERS + LINE], torch.uint8).zero_()
        address = aligned(board.data_ptr())
        started = []
        try:
            for thread in range(1, num_threads):
                started.append(self._helpers.submit(function, address, thread, *args))
        except RuntimeError:
            pass  # the program ends, and starts no threads any more: this one does all the work
        try:
            function(address, 0, *args)
        finally:
            for helper in started:
                if not helper.cancel():
                    helper.result()
