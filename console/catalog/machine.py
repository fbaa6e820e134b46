"""What advice has to know of this machine, asked of the kernel: torch stays out of the console."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

CPU_INFO = Path("/proc/cpuinfo")
GPUS = Path("/proc/driver/nvidia/gpus")
FAST_BFLOAT16 = {"avx512_bf16", "amx_bf16", "bf16"}  # x86's two, and Arm's


@dataclass(frozen=True, slots=True)
class Machine:
    has_gpu: bool
    has_fast_bfloat16: bool  # its CPU multiplies bfloat16 without a detour
    num_cpus: int
    memory_bytes: int


@lru_cache(maxsize=1)
def this_machine() -> Machine:
    """Of the process that renders the page, which by default is the engine's too."""
    words = set(CPU_INFO.read_text().split()) if CPU_INFO.exists() else set()
    return Machine(
        has_gpu=GPUS.exists() and any(GPUS.iterdir()),
        has_fast_bfloat16=bool(words & FAST_BFLOAT16),
        num_cpus=os.cpu_count() or 1,
        memory_bytes=os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
    )
