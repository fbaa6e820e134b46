"""This run of the server and the one before it: pages notice a restart by its id, and the audit log says how
each run began and ended.

A run that is killed writes no last row. The next start finds the lease that it left (`lease.py`) and writes
the row for it, with the trace that Python left where a fault in native code was the cause.
"""

from __future__ import annotations

import faulthandler
import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from io import FileIO
from pathlib import Path
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.db import DatabaseError
from django.http import HttpResponseBase
from django.utils import timezone

from console import __version__
from console.audit.actor import Actor
from console.audit.models import Entry
from console.audit.write import write
from console.database.process_lease import is_running, own_lease

logger = logging.getLogger(__name__)

STARTED, STOPPED, CRASHED = "server.started", "server.stopped", "server.crashed"
ACTOR = Actor.system("system")
MACHINE_BOOT = Path("/proc/sys/kernel/random/boot_id")
NUM_TRACES = 10
KILLED = "killed from outside, out of memory, or power lost: the process left no trace"


@dataclass(slots=True)
class Run:
    """What every page is told in a header, so that it can say that the server was away."""

    id: str = field(default_factory=lambda: uuid4().hex[:12])
    started_at: datetime = field(default_factory=timezone.now)
    num_lost: int = 0  # requests that the run before left behind
    is_draining: bool = False

    def header(self, person: int) -> str:
        """`person`: whose session it is that answers; a page of somebody else's is loaded anew."""
        parts = [self.id, str(int(self.started_at.timestamp())), str(self.num_lost), str(person)]
        return " ".join([*parts, "draining"] if self.is_draining else parts)


THIS_RUN = Run()
HEADER = "X-Server-Run"
_trace_file: list[FileIO] = []  # faulthandler writes to its descriptor for as long as the process lives


def stamp(response: HttpResponseBase, *, person: int) -> None:
    """Say which run of the server answers, since when, what the one before lost, and whether it ends."""
    response[HEADER] = THIS_RUN.header(person)


def crashed_runs() -> Iterator[str]:
    """Servers of this DATA_DIR that ended and did not say so."""
    for path in Path(settings.LEASE_DIR).iterdir():
        if path.suffix or is_running(path.name) is not False:
            continue
        rows = Entry.objects.filter(action__in=(STARTED, STOPPED, CRASHED), target=f"server:{path.name}")
        if set(rows.values_list("action", flat=True)) == {STARTED}:
            yield path.name


def write_crash(server: str, *, num_lost: int) -> None:
    """The row that a run could not write itself."""
    began = Entry.objects.filter(action=STARTED, target=f"server:{server}").latest("seq")
    detail = {"cause": _cause(server, began), "lost_requests": num_lost, "started_at": began.at.isoformat()}
    write(actor=ACTOR, action=CRASHED, target=f"server:{server}", detail=detail)
    logger.error("the server before this one ended without stopping: %s", detail["cause"])


def write_start(*, num_lost: int) -> None:
    THIS_RUN.num_lost = num_lost
    detail = {"version": __version__, "machine_boot": _machine_boot(), "lost_requests": num_lost}
    write(actor=ACTOR, action=STARTED, target=f"server:{own_lease().server}", detail=detail)
    _keep_trace()


def write_stop() -> None:
    """Never keeps a server from stopping: without the row, the next start calls this end a crash."""
    try:
        detail = {"cause": "asked to stop"}
        write(actor=ACTOR, action=STOPPED, target=f"server:{own_lease().server}", detail=detail)
    except DatabaseError:
        logger.warning("the stop could not be written down", exc_info=True)


def _cause(server: str, began: Entry) -> str:
    trace = _trace_of(server)
    lines = trace.read_text(errors="replace").splitlines() if trace.exists() else []
    if lines:
        return f"{lines[0][:200]} ({trace.name})"
    boot = _detail(began).get("machine_boot", "")
    return "the machine was started anew" if boot and boot != _machine_boot() else KILLED


def _detail(entry: Entry) -> Mapping[str, Any]:
    found: Mapping[str, Any] = json.loads(entry.detail)
    return found


def _machine_boot() -> str:
    return MACHINE_BOOT.read_text().strip() if MACHINE_BOOT.exists() else ""


def _trace_of(server: str) -> Path:
    return Path(settings.LEASE_DIR).parent / "crashes" / f"{server}.txt"


def _keep_trace() -> None:
    """Let Python write where every thread was when native code ends the process; the newest are kept."""
    path = _trace_of(own_lease().server)
    path.parent.mkdir(exist_ok=True)
    old = sorted(path.parent.glob("*.txt"), key=lambda one: one.stat().st_mtime)
    empty = [one for one in old if not one.stat().st_size and is_running(one.stem) is not True]
    for one in {*empty, *old[:-NUM_TRACES]}:
        one.unlink(missing_ok=True)
    _trace_file[:] = [path.open("ab", buffering=0)]
    faulthandler.enable(_trace_file[0])
