"""What a process may take of the machine, set by itself before it runs foreign code."""

from __future__ import annotations

import ctypes
import resource
import sys
from math import ceil
from pathlib import Path

MEMORY = Path("/proc/self/statm")


def limit_processor(seconds: float) -> None:
    """From now on, of processor time; beyond it the kernel ends the process (SIGXCPU)."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    until = ceil(used.ru_utime + used.ru_stime + seconds)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (until, hard))


def limit_memory(num_bytes: int) -> None:
    """Of address space, all in all. Where the system does not say what is in use, there is no limit."""
    if MEMORY.exists():
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (num_bytes, hard))


def limit_files() -> None:
    """Neither files nor a picture of the memory are written any more."""
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))


def memory_in_use() -> int:
    """Bytes of address space."""
    try:
        return int(MEMORY.read_text().split()[0]) * resource.getpagesize()
    except OSError:
        return 0


def give_back() -> None:
    """What the C library keeps of freed memory goes back to the system."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not every C library has it
        if trim is not None:
            trim(0)
