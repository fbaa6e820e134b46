"""Threads that share the work of one compiled function: a thread that is free takes the next share.

No share is assigned in advance, so a thread that comes late, or never, leaves its work to the others.
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

CACHE_LINE = ALIGNMENT  # bytes; counters on one line would be contended for together
COUNTERS = 2 * CACHE_LINE  # bytes of a phase: shares taken, and shares done
MAX_SPINS = 100_000  # looks at a counter, some ten microseconds, before the core is left to others

SLEEP_MICROSECONDS = 1  # in fact some fifty; the kernel then wakes the thread on an idle core

sleep = types.ExternalFunction("usleep", types.int32(types.uint32))


@njit
def next_share(counters, phase, num_shares):
    """Claims the next share of a phase: its number, or -1 once all of them are done."""
    taken = counters + phase * COUNTERS
    share = add_atomically(taken, 1)
    if share < num_shares:
        return share
    looks = 0
    while read_atomically(taken + CACHE_LINE) < num_shares:
        looks += 1
        if looks > MAX_SPINS:
            sleep(np.uint32(SLEEP_MICROSECONDS))
            looks = 0
    return -1


@njit
def finish(counters, phase):
    """Counts a share of the phase as done."""
    add_atomically(counters + phase * COUNTERS + CACHE_LINE, 1)


class WorkerPool:
    """Runs a compiled function on several threads at once, the caller's among them."""

    def __init__(self) -> None:
        self._helpers = ThreadPoolExecutor(os.cpu_count() or 1, "cpu-workers")  # started when they are wanted

    def run(self, function: Callable[..., None], *args: Any, num_phases: int, num_threads: int) -> None:
        """Calls function(counters, thread, *args) in each thread; back when the last has ended."""
        counters = buffers.new([num_phases * COUNTERS + CACHE_LINE], torch.uint8).zero_()
        address = aligned(counters.data_ptr())
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
