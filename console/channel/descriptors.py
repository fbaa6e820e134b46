"""File descriptors: as many as the system gives, and some of them kept from connections."""

from __future__ import annotations

import resource

RESERVE = 256  # for the database, models and files
MOST = 1 << 20  # where the system names no bound


def raise_limit() -> int:
    """Raise the limit of open files to what the system allows; the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST if hard == resource.RLIM_INFINITY else hard
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return MOST if soft == resource.RLIM_INFINITY else soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted


def room_for_connections(limit: int, *, wanted: int) -> int:
    """The most connections under a limit of open files."""
    return max(1, min(wanted, max(limit - RESERVE, limit // 2)))
