"""Drops files from the page cache, and measures how much of them is in it."""

from __future__ import annotations

import ctypes
import mmap
import os
from collections.abc import Iterable
from pathlib import Path


def drop(files: Iterable[Path]) -> None:
    """Ask the kernel to forget what it keeps of the files; file systems in memory cannot."""
    for path in files:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # pages that are still to be written are kept
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(descriptor)


def resident_share(files: Iterable[Path]) -> float:
    """Part of the files' pages that are in memory."""
    libc = ctypes.CDLL(None, use_errno=True)
    num_pages = num_resident = 0
    for path in files:
        size = path.stat().st_size
        with path.open("rb") as file, mmap.mmap(file.fileno(), size, access=mmap.ACCESS_COPY) as mapped:
            pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
            start = ctypes.c_char.from_buffer(mapped)
            address = ctypes.c_void_p(ctypes.addressof(start))
            failed = libc.mincore(address, ctypes.c_size_t(size), pages)
            del start  # or the mapping could not be closed
        if failed:
            raise OSError(ctypes.get_errno(), "mincore")
        num_pages += len(pages)
        num_resident += sum(page & 1 for page in pages)
    return num_resident / num_pages if num_pages else 0.0
