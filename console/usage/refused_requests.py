"""Requests that were refused before they were accepted: a row each, up to a number a minute, then counted.

A flood must not cost an fsync each: what comes is noted in memory and written once a second, in the ledger's
shared transactions. Nothing of what was asked is kept.
"""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from django.db import Error, connection
from django.utils import timezone

from console.database.group_commit import Closed, ledger
from console.keys.models import ApiKey
from console.usage.models import RefusedRequest

logger = logging.getLogger(__name__)

PERIOD_SECONDS = 1.0
MAX_NOTED = 2000  # between two writes; what comes after them is counted without its key
MAX_ROWS = 100  # a minute of one key and code
MAX_KEPT = 200_000
KEPT_FOR = timedelta(days=30)
PERIODS_BETWEEN_SWEEPS = 600

Kind = tuple[str, int, str]  # owner, status, code


@dataclass(frozen=True, slots=True)
class Refusal:
    """A refused request. `owner` is the key's public id as it was claimed, or `user:<pk>`."""

    owner: str
    status: int
    code: str
    at: datetime
    request_id: str = ""
    endpoint: str = ""
    transport: str = ""
    param: str = ""
    ip: str = ""
    limit: str = ""  # which limit of the key: a column of `Limit`
    limit_value: int | None = None
    frees_at: datetime | None = None

    @property
    def kind(self) -> Kind:
        return self.owner, self.status, self.code


class RefusedLog:
    """`note` from any thread; one thread writes."""

    def __init__(self, clock: Callable[[], datetime] = timezone.now) -> None:
        self._clock = clock
        self._noted: deque[Refusal] = deque()
        self._uncounted: Counter[Kind] = Counter()  # had no place in `_noted`
        self._written: Counter[Kind] = Counter()  # rows of this minute
        self._counted: Counter[Kind] = Counter()  # beyond them
        self._minute: datetime | None = None
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None

    def note(self, refused: Refusal) -> None:
        with self._lock:
            if len(self._noted) < MAX_NOTED:
                self._noted.append(refused)
            else:
                self._uncounted["", refused.status, refused.code] += 1

    def flush(self, *, is_last: bool = False) -> int:
        """Write what was noted; how many rows. Nothing is lost when that fails."""
        now = self._clock()
        with self._lock:
            noted, self._noted = list(self._noted), deque()
            uncounted, self._uncounted = self._uncounted, Counter()
        rows = self._counts(now, is_last=is_last)
        self._counted += uncounted
        if is_last:
            rows += self._counts(now, is_last=True)
        rows += self._rows(with_known_owners(noted))
        if not rows:
            return 0
        try:
            ledger().submit(lambda: RefusedRequest.objects.bulk_create(rows)).result()
        except (Error, Closed) as error:
            logger.warning("refused requests could not be written down; they are counted: %s", error)
            for row in rows:
                self._counted[row.owner, row.status, row.code] += row.count
            return 0
        return len(rows)

    def start(self) -> None:
        """Write once a second from now on, in a thread of its own; idempotent."""
        with self._lock:
            if self._thread is None:
                self._stopped.clear()
                self._thread = threading.Thread(target=self._run, name="refused-log", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """Write what is left, and end the thread."""
        with self._lock:
            thread, self._thread = self._thread, None
        self._stopped.set()
        if thread is not None:
            thread.join(10.0)

    def _run(self) -> None:
        num_periods = 0
        try:
            while not self._stopped.wait(PERIOD_SECONDS):
                self.flush()
                if num_periods % PERIODS_BETWEEN_SWEEPS == 0:
                    with suppress(Error):  # a full disk, a lock: the next turn does it
                        ledger().submit(sweep).result()
                num_periods += 1
        except Exception:
            logger.exception("the log of refused requests has stopped")
        finally:
            self.flush(is_last=True)
            connection.close()

    def _counts(self, now: datetime, *, is_last: bool) -> list[RefusedRequest]:
        """A minute's refusals beyond those with a row, once it is over: a row for each kind."""
        minute = now.replace(second=0, microsecond=0)
        if minute == self._minute and not is_last:
            return []
        counted, self._counted, self._written = self._counted, Counter(), Counter()
        at, self._minute = self._minute or minute, minute
        return [
            RefusedRequest(at=at, owner=owner, status=status, code=code, count=number)
            for (owner, status, code), number in counted.items()
        ]

    def _rows(self, noted: Iterable[Refusal]) -> list[RefusedRequest]:
        rows = []
        for one in noted:
            if self._written[one.kind] >= MAX_ROWS:
                self._counted[one.kind] += 1
                continue
            self._written[one.kind] += 1
            rows.append(RefusedRequest(**{name: getattr(one, name) for name in Refusal.__dataclass_fields__}))
        return rows


def with_known_owners(noted: list[Refusal]) -> list[Refusal]:
    """Invented keys have no name of their own here, or there would be no end of them."""
    claimed = {one.owner for one in noted if one.owner and not one.owner.startswith("user:")}
    known = set(ApiKey.objects.filter(public_id__in=claimed).values_list("public_id", flat=True))
    return [
        one if one.owner in known or one.owner not in claimed else replace(one, owner="") for one in noted
    ]


def sweep() -> None:
    """Forget what is old, or too much."""
    RefusedRequest.objects.filter(at__lt=timezone.now() - KEPT_FOR).delete()
    newest = RefusedRequest.objects.order_by("-pk").values_list("pk", flat=True).first() or 0
    RefusedRequest.objects.filter(pk__lte=newest - MAX_KEPT).delete()


REFUSED_LOG = RefusedLog()
