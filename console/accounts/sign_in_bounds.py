"""Checking a password costs a processor a third of a second on purpose. So strangers' attempts are bounded
before one is checked: at once, by address and in all. What is beyond is counted for the audit log, not a row
each.
"""

from __future__ import annotations

import threading
import time
import unicodedata
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponseBase
from django.shortcuts import render

from console.addresses import client_of
from console.audit.actor import address
from console.audit.refusals import REFUSALS

AT_ONCE = 2
MAX_WAITING = 8
WAIT_SECONDS = 3.0
PER_ADDRESS = (20, 10 / 60)  # at once, and so many a second after that
KNOWN_ADDRESS = (120, 60 / 60)  # the same, where somebody has signed in
IN_ALL = (60, 60 / 60)  # from addresses where nobody has
MAX_ADDRESSES = 10_000  # that are remembered

View = Callable[..., HttpResponseBase]


class Bucket:
    """So many attempts, and new ones as time passes."""

    def __init__(self, rate: tuple[int, float], now: float) -> None:
        self._most, self._per_second = rate
        self._left, self._counted_at = float(self._most), now

    def take(self, now: float) -> bool:
        elapsed, self._counted_at = now - self._counted_at, now
        self._left = min(self._most, self._left + elapsed * self._per_second)
        if self._left < 1:
            return False
        self._left -= 1
        return True


class SignIns:
    """Attempts of this process; may be asked from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._changed = threading.Condition()
        self._checking: set[tuple[str, str]] = set()  # name and client
        self._num_waiting = 0
        self._in_all = Bucket(IN_ALL, clock())
        self._by_client: OrderedDict[str, Bucket] = OrderedDict()
        self._known: OrderedDict[str, None] = OrderedDict()

    @contextmanager
    def attempt(self, host: str, name: str = "") -> Iterator[bool]:
        """Whether a password may be checked now. Of one name from one client one at a time: looking whether
        it is locked, the check and the count must not overlap."""
        who = (name, client_of(host))
        if not self._may_try(who[1]) or not self._begin(who):
            yield False
            return
        try:
            yield True
        finally:
            with self._changed:
                self._checking.remove(who)
                self._changed.notify_all()

    def succeeded(self, host: str) -> None:
        client = client_of(host)
        with self._lock:
            if client not in self._known:
                self._by_client[client] = Bucket(KNOWN_ADDRESS, self._clock())
            self._known[client] = None
            if len(self._known) > MAX_ADDRESSES:
                self._known.popitem(last=False)

    def _may_try(self, client: str) -> bool:
        now = self._clock()
        with self._lock:
            mine = self._by_client.setdefault(client, Bucket(PER_ADDRESS, now))
            self._by_client.move_to_end(client)
            if len(self._by_client) > MAX_ADDRESSES:
                self._by_client.popitem(last=False)
            return mine.take(now) and (client in self._known or self._in_all.take(now))

    def _begin(self, who: tuple[str, str]) -> bool:
        with self._changed:
            if self._num_waiting >= MAX_WAITING:
                return False
            self._num_waiting += 1
            may_begin = self._changed.wait_for(lambda: self._has_room(who), WAIT_SECONDS)
            self._num_waiting -= 1
            if may_begin:
                self._checking.add(who)
            return may_begin

    def _has_room(self, who: tuple[str, str]) -> bool:
        return len(self._checking) < AT_ONCE and who not in self._checking


SIGN_INS = SignIns()


def bounded(view: View) -> View:
    """The sign-in page, whose form is looked at only within the bounds."""

    @wraps(view)
    def within(request: HttpRequest, *arguments: Any, **named: Any) -> HttpResponseBase:
        if request.method != "POST":
            return view(request, *arguments, **named)
        host = address(request)
        with SIGN_INS.attempt(host, counted_name(request, None)) as may_try:
            if not may_try:
                REFUSALS.note(source="stranger", ip=host, reason="429 sign-in")
                response = render(request, "account/busy.html", status=429)
                response["retry-after"] = "60"
                return response
            answer = view(request, *arguments, **named)
        if request.user.is_authenticated:
            SIGN_INS.succeeded(host)
        return answer

    return within


def counted_name(request: HttpRequest | None, credentials: Mapping[str, Any] | None) -> str:
    """The name that wrong passwords are counted for: one for all ways to write it."""
    given = credentials.get("username") if credentials else request and request.POST.get("login")
    text = unicodedata.normalize("NFKC", str(given or ""))
    seen = "".join(one for one in text if unicodedata.category(one) not in ("Cf", "Cc"))
    return unicodedata.normalize("NFKC", seen.casefold()).strip()[:150]
