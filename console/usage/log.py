"""The request log: which requests a reader asks for, newest first, page by page without a count of them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import median

from django.db.models import Q, QuerySet

from console.accounts.models import User
from console.keys.models import ApiKey
from console.usage.models import Outcome, UsageRecord

MAX_OWNERS = 50  # keys and people that one search by name stands for
NUM_COMPARED = 200  # requests of a caller that a request is compared with
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class LogFilter:
    """A filter of the request log; an empty field filters nothing."""

    request_id: str = ""  # or how it begins
    owner: str = ""  # a key's name or public id, or a person's name
    model: str = ""
    outcome: str = ""
    error_code: str = ""
    endpoint: str = ""
    transport: str = ""
    arrived_from: datetime | None = None
    arrived_until: datetime | None = None
    min_seconds: float | None = None

    def rows(self) -> QuerySet[UsageRecord]:
        rows = UsageRecord.objects.select_related("key").defer("spans")
        exact = ("model", "outcome", "error_code", "endpoint", "transport")
        rows = rows.filter(**{name: getattr(self, name) for name in exact if getattr(self, name)})
        if self.request_id:
            rows = rows.filter(request_id__startswith=self.request_id)
        if self.arrived_from is not None:
            rows = rows.filter(created_at__gte=self.arrived_from)
        if self.arrived_until is not None:
            rows = rows.filter(created_at__lt=self.arrived_until)
        if self.min_seconds is not None:
            rows = rows.filter(total_seconds__gte=self.min_seconds)
        return rows

    def first(self, limit: int, *, place: Q, is_oldest_first: bool = False) -> list[UsageRecord]:
        """Rows of a place in the log, in order.

        Each owner's are read apart: of several at once a database would sort all that they ever asked.
        """
        sign = "" if is_oldest_first else "-"
        rows = self.rows().filter(place).order_by(f"{sign}created_at", f"{sign}pk")
        if not self.owner:
            return list(rows[:limit])
        owners = owners_called(self.owner)[:MAX_OWNERS]
        found = [row for owner in owners for row in rows.filter(owner=owner)[:limit]]
        found.sort(key=lambda row: (row.created_at, row.pk), reverse=not is_oldest_first)
        return found[:limit]


@dataclass(frozen=True, slots=True)
class Mark:
    """A place between two rows of the log: it stays where it is while new rows come in."""

    created_at: datetime
    pk: int

    def __str__(self) -> str:
        return f"{(self.created_at - EPOCH) // timedelta(microseconds=1)}-{self.pk}"

    @classmethod
    def parse(cls, text: str) -> Mark | None:
        """None for what no mark was ever written as."""
        moment, _, pk = text.partition("-")
        if not (moment.isdecimal() and pk.isdecimal() and len(moment) < 18 and len(pk) < 19):
            return None
        try:
            return cls(EPOCH + timedelta(microseconds=int(moment)), int(pk))
        except OverflowError:
            return None

    @classmethod
    def of(cls, row: UsageRecord) -> Mark:
        return cls(row.created_at, row.pk)

    # The first condition follows from the second, and lets the database begin in the right place of an index.
    def older(self) -> Q:
        tie = Q(created_at=self.created_at, pk__lt=self.pk)
        return Q(created_at__lte=self.created_at) & (Q(created_at__lt=self.created_at) | tie)

    def newer(self) -> Q:
        tie = Q(created_at=self.created_at, pk__gt=self.pk)
        return Q(created_at__gte=self.created_at) & (Q(created_at__gt=self.created_at) | tie)


@dataclass(frozen=True, slots=True)
class LogPage:
    """Rows, newest first, and where the pages beside this one begin."""

    rows: list[UsageRecord]
    newer: Mark | None
    older: Mark | None


def log_page(
    log_filter: LogFilter, *, limit: int, before: Mark | None = None, after: Mark | None = None
) -> LogPage:
    """The newest rows; or those next older than `before`, or next newer than `after`."""
    if after is not None:
        found = log_filter.first(limit + 1, place=after.newer(), is_oldest_first=True)
        if len(found) < limit:  # fewer than a page are newer: the newest page shows them, and is full
            return log_page(log_filter, limit=limit)
        has_more, found = len(found) > limit, found[:limit][::-1]
        newer, older = (Mark.of(found[0]) if has_more else None), Mark.of(found[-1])
        return LogPage(name_people(found), newer, older)
    found = log_filter.first(limit + 1, place=before.older() if before else Q())
    has_more, found = len(found) > limit, found[:limit]
    newer = Mark.of(found[0]) if before is not None and found else None
    return LogPage(name_people(found), newer, Mark.of(found[-1]) if has_more else None)


def find_request(request_id: str) -> UsageRecord | None:
    row = UsageRecord.objects.select_related("key", "team").filter(request_id=request_id).first()
    return name_people([row])[0] if row else None


def owners_called(text: str) -> tuple[str, ...]:
    """The people and newest keys of that name or id, as the ledger names them; at most MAX_OWNERS + 1."""
    if text.startswith("user:") or ApiKey.objects.filter(public_id=text).exists():
        return (text,)
    keys = ApiKey.objects.filter(name__icontains=text).order_by("-pk").values_list("public_id", flat=True)
    people = User.objects.filter(username__icontains=text).order_by("pk").values_list("pk", flat=True)
    owners = [*(f"user:{pk}" for pk in people[: MAX_OWNERS + 1]), *keys[: MAX_OWNERS + 1]]
    return tuple(owners[: MAX_OWNERS + 1])


def name_people(rows: list[UsageRecord]) -> list[UsageRecord]:
    """The same rows; those of the playground know whose they are."""
    pks = {row.owner.removeprefix("user:") for row in rows if row.owner.startswith("user:")}
    names = dict(User.objects.filter(pk__in=pks).values_list("pk", "username")) if pks else {}
    for row in rows:
        if row.owner.startswith("user:"):
            row.person = names.get(int(row.owner.removeprefix("user:")), "")
    return rows


def usual_seconds(row: UsageRecord) -> float | None:
    """The median duration of the caller's finished requests before this one; None: too few to say."""
    durations = (
        UsageRecord.objects.filter(owner=row.owner, created_at__lt=row.created_at, outcome=Outcome.FINISHED)
        .order_by("-created_at")
        .values_list("total_seconds", flat=True)[:NUM_COMPARED]
    )
    known = [seconds for seconds in durations if seconds > 0]
    return median(known) if len(known) >= 5 else None
