"""How many KV blocks the memory at hand allows, and what one revision may take of it."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from inference.checkpoints.model_folder import TooLittleMemory
from inference.kv_pool_size import Pool

CPU_SHARE = 0.25  # of what is free: the console, the page cache and the weights' own buffers need the rest


def plan_num_blocks(
    pool: Pool, *, free_bytes: int, taken_bytes: int = 0, room_bytes: int | None = None
) -> int:
    """Blocks for the pool: as many as fit into what is free, and into the room that its revision has left.

    `taken_bytes`: what the engine will take beside it, measured; known of GPUs alone.
    """
    affordable_bytes = free_bytes - taken_bytes if pool.is_cuda else int(free_bytes * CPU_SHARE)
    if room_bytes is not None:
        affordable_bytes = min(affordable_bytes, room_bytes)
    num_blocks = pool.blocks_within(affordable_bytes)
    if num_blocks < max(1, pool.least_blocks):
        raise TooLittleMemory(
            f"the KV pool would get {num_blocks} blocks of {pool.block_bytes} bytes: "
            "free memory, choose a smaller model, or quantize it"
        )
    return num_blocks


def free_host_bytes() -> int:
    """What this process may still take: of the machine, and of its control group where that has a limit."""
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        for line in meminfo.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = int(line.split()[1]) * 1024
    return min([free, *_control_group_free_bytes()])


def return_freed_pages() -> None:
    """Pages that were freed go back to the system, where the C library can do that.

    glibc keeps them otherwise, in an arena for each thread: those of loads, each in a thread of its own, came
    to 600 MiB after six of SmolLM2-135M.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except AttributeError:
        return  # another C library


def total_host_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _control_group_free_bytes() -> list[int]:
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return []
    return [] if limit == "max" else [max(0, int(limit) - used)]
