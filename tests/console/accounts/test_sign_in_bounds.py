"""Strangers' passwords are checked at a rate, a few at once; a name has one counter however it is written."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import pytest
from django.contrib.auth.hashers import check_password
from django.db import connection
from django.test import Client, RequestFactory

from console.accounts import sign_in_bounds as module
from console.accounts.actions import create_user
from console.accounts.roles import Role
from console.accounts.sign_in_bounds import (
    AT_ONCE,
    IN_ALL,
    KNOWN_ADDRESS,
    MAX_WAITING,
    PER_ADDRESS,
    SignIns,
    counted_name,
)
from console.addresses import client_of
from console.audit.actor import Actor
from console.audit.models import Entry
from console.audit.refusals import REFUSALS

PASSWORD = "a long and fine passphrase"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def num_let_in(sign_ins: SignIns, hosts: list[str]) -> int:
    count = 0
    for host in hosts:
        with sign_ins.attempt(host) as may_try:
            count += may_try
    return count


def test_an_address_has_so_many_attempts_under_whatever_names() -> None:
    clock = Clock()
    sign_ins = SignIns(clock)
    assert num_let_in(sign_ins, ["1.2.3.4"] * 100) == PER_ADDRESS[0]
    assert num_let_in(sign_ins, ["4.3.2.1"] * 3) == 3
    clock.now += 60
    assert num_let_in(sign_ins, ["1.2.3.4"] * 100) == round(PER_ADDRESS[1] * 60)


def test_many_addresses_have_so_many_together_but_who_signed_in_there_before_still_may() -> None:
    sign_ins = SignIns(Clock())
    sign_ins.succeeded("9.9.9.9")
    assert num_let_in(sign_ins, [f"1.2.{n // 200}.{n % 200}" for n in range(1000)]) == IN_ALL[0]
    assert num_let_in(sign_ins, ["9.9.9.9"] * 1000) == KNOWN_ADDRESS[0]


def test_a_client_with_a_network_of_addresses_is_one() -> None:
    hosts = [f"2001:db8:1:2::{n:x}" for n in range(1, 200)]
    assert len({client_of(host) for host in hosts}) == 1
    assert num_let_in(SignIns(Clock()), hosts) == PER_ADDRESS[0]
    assert client_of("2001:db8:1:3::1") != client_of(hosts[0])
    assert client_of("::ffff:1.2.3.4") == client_of("1.2.3.4") == "1.2.3.4"


def test_few_are_checked_at_once_and_few_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "WAIT_SECONDS", 60.0)
    sign_ins, goes_on = SignIns(Clock()), threading.Event()
    lock, seen = threading.Lock(), {"now": 0, "most": 0, "refused": 0}
    at_work = threading.Semaphore(0)

    def stranger(number: int) -> None:
        with sign_ins.attempt(f"1.1.1.{number}") as may_try:
            with lock:
                seen["refused"] += not may_try
                seen["now"] += may_try
                seen["most"] = max(seen["most"], seen["now"])
            at_work.release()
            if may_try:
                goes_on.wait(60)
                with lock:
                    seen["now"] -= 1

    strangers = [threading.Thread(target=stranger, args=[number]) for number in range(40)]
    for one in strangers:
        one.start()
    for _ in range(40 - MAX_WAITING):  # those at work, and those refused
        assert at_work.acquire(timeout=60)
    goes_on.set()
    for one in strangers:
        one.join(60)
    assert seen["most"] == AT_ONCE
    assert seen["refused"] == 40 - AT_ONCE - MAX_WAITING


WIDE, BOLD = "\uff41\uff44\uff44\uff41", "\U0001d41a\U0001d41d\U0001d41d\U0001d41a"


@pytest.mark.parametrize(
    "written",
    [
        "ADDA",
        "Adda",
        WIDE,
        "adda\u200b",
        "\u2060ad\ufeffda",
        " adda ",
        BOLD,
        "ad\u00adda",
    ],
)
def test_a_name_is_counted_the_same_however_it_is_written(written: str) -> None:
    assert counted_name(None, {"username": written}) == "adda"
    assert counted_name(RequestFactory().post("/", {"login": written}), None) == "adda"


@pytest.mark.django_db
def test_strangers_beyond_the_bound_cost_no_hash_and_no_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SIGN_INS", SignIns(Clock()))
    checked: list[str] = []
    create_user(actor=Actor.person("test"), username="adda", password=PASSWORD, role=Role.ADMIN)

    def counting(self: object, password: str) -> bool:
        checked.append(password)
        return check_password(password, self.password)  # type: ignore[attr-defined]

    monkeypatch.setattr("console.accounts.models.User.check_password", counting)
    monkeypatch.setattr("console.accounts.models.User.set_password", lambda self, raw: checked.append(raw))
    before = Entry.objects.count()
    statuses = [
        Client().post("/account/sign-in/", {"login": f"stranger{n}", "password": "x"}).status_code
        for n in range(60)
    ]
    assert statuses == [200] * PER_ADDRESS[0] + [429] * (60 - PER_ADDRESS[0])
    assert len(checked) == PER_ADDRESS[0]
    assert Entry.objects.count() - before == PER_ADDRESS[0]
    REFUSALS.flush()
    told = [
        one.detail for one in Entry.objects.filter(action="requests.refused") if "429 sign-in" in one.detail
    ]
    assert len(told) == 1 and f'"429 sign-in":{60 - PER_ADDRESS[0]}' in told[0]


@pytest.mark.django_db(transaction=True)
def test_of_many_tries_at_once_exactly_so_many_are_looked_at_and_one_row_says_that_the_name_is_locked(
    monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    monkeypatch.setattr(module, "SIGN_INS", SignIns(Clock()))
    monkeypatch.setattr(module, "WAIT_SECONDS", 60.0)
    num_tries = AT_ONCE + MAX_WAITING
    assert num_tries > settings.AXES_FAILURE_LIMIT
    create_user(actor=Actor.person("test"), username="adda", password=PASSWORD, role=Role.ADMIN)
    checked: list[str] = []

    def slow(self: object, password: str) -> bool:
        checked.append(password)
        time.sleep(0.05)  # as a real hash, so that others come in the meantime
        return False

    monkeypatch.setattr("console.accounts.models.User.check_password", slow)
    together = threading.Barrier(num_tries)

    def attack(number: int) -> None:
        together.wait(60)
        Client().post("/account/sign-in/", {"login": "adda", "password": str(number)})
        connection.close()

    strangers = [threading.Thread(target=attack, args=[number]) for number in range(num_tries)]
    for one in strangers:
        one.start()
    for one in strangers:
        one.join()
    actions = Counter(Entry.objects.filter(action__startswith="login.").values_list("action", flat=True))
    assert actions == {"login.failed": settings.AXES_FAILURE_LIMIT, "login.locked": 1}
    assert len(checked) == settings.AXES_FAILURE_LIMIT
