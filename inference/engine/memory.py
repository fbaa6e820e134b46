"""How many KV blocks the memory at hand allows."""

from __future__ import annotations

import os
from pathlib import Path

from inference.models.files import CannotLoad

CPU_SHARE = 0.25  # of what is free: the console, the page cache and the weights' own buffers need the rest
CUDA_SHARE = 0.90  # of what is free after the largest step: the rest is for fragmentation
CPU_MAX_TOKENS = 32_768  # a small machine's batch needs no more, and others need the memory


class TooLittleMemory(CannotLoad):
    """The pool would not hold a single useful sequence."""


def plan_num_blocks(
    *,
    free_bytes: int,
    block_bytes: int,
    block_size: int,
    max_model_len: int,
    max_num_seqs: int,
    is_cuda: bool,
) -> int:
    """Blocks for the pool. Never more than a full batch of longest sequences could use."""
    affordable = int(free_bytes * (CUDA_SHARE if is_cuda else CPU_SHARE)) // block_bytes
    blocks_per_context = -(-max_model_len // block_size)
    useful = max_num_seqs * blocks_per_context
    if not is_cuda:
        useful = min(useful, max(2 * blocks_per_context, CPU_MAX_TOKENS // block_size))
    num_blocks = min(affordable, useful)
    if num_blocks < 1 or num_blocks * block_size < min(256, max_model_len):
        raise TooLittleMemory(
            f"the KV pool would get {max(affordable, 0)} blocks of {block_bytes} bytes: "
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


def _control_group_free_bytes() -> list[int]:
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
    except (OSError, ValueError):
        return []
    return [] if limit == "max" else [max(0, int(limit) - used)]
