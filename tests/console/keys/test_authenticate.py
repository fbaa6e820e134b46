"""The header becomes a caller, or is refused: without a query where it cannot be a key."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import sync_to_async
from django.conf import settings
from django.utils import timezone

from console.accounts.caller import NotAuthenticated
from console.audit.actor import Actor
from console.database.async_read import read
from console.database.group_commit import ledger
from console.keys.actions import IssuedKey, revoke
from console.keys.authenticate import authenticate, bearer, identify
from console.keys.models import ApiKey
from console.keys.token import Token, generate, parse

Queries = Callable[[int], Any]


def token_of(issued: IssuedKey) -> Token:
    token = parse(issued.secret)
    assert token is not None
    return token


@pytest.mark.django_db(transaction=True)
async def test_a_key_becomes_its_caller(issued: IssuedKey) -> None:
    caller = await authenticate(authorization=f"Bearer {issued.secret}")
    assert (caller.kind, caller.id, caller.name) == ("key", issued.key.public_id, "program")
    assert (caller.key_pk, caller.team_id, caller.salt) == (
        issued.key.pk,
        issued.key.team_id,
        issued.key.team.salt,
    )


@pytest.mark.django_db(transaction=True)
async def test_a_revoked_key_is_refused_from_the_next_request_on(issued: IssuedKey) -> None:
    header = f"Bearer {issued.secret}"
    await authenticate(authorization=header)
    await sync_to_async(revoke)(actor=Actor.person("test"), key=issued.key)
    for _ in range(20):
        with pytest.raises(NotAuthenticated, match="revoked"):
            await authenticate(authorization=header)


@pytest.mark.django_db(transaction=True)
async def test_the_last_use_is_noted_once_a_minute(issued: IssuedKey) -> None:
    header = f"Bearer {issued.secret}"
    await ledger().commit(lambda: None)  # what the test before left
    before = ledger().num_committed
    await authenticate(authorization=header)
    await ledger().commit(lambda: None)
    first = (await ApiKey.objects.aget()).last_used_at
    assert first is not None
    await authenticate(authorization=header)
    await ledger().commit(lambda: None)
    assert (await ApiKey.objects.aget()).last_used_at == first
    assert ledger().num_committed == before + 3  # the note and the two empty commits

    await ApiKey.objects.aupdate(last_used_at=timezone.now() - timedelta(seconds=61))
    await authenticate(authorization=header)
    await ledger().commit(lambda: None)
    again = (await ApiKey.objects.aget()).last_used_at
    assert again is not None and again > first


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        "Bearer sk-123",
        "Bearer ' OR 1=1 --",
        pytest.param("Bearer " + generate().text[:-1] + "!", id="an altered checksum"),
        pytest.param("Bearer " + generate().text + generate().text, id="two keys"),
        "Bearer \x00",
    ],
)
@pytest.mark.django_db
def test_what_cannot_be_a_key_costs_no_query(header: str | None, django_assert_num_queries: Queries) -> None:
    with django_assert_num_queries(0), pytest.raises(NotAuthenticated) as refusal:
        bearer(header)
    assert refusal.value.code == "invalid_api_key"
    for part in (header or "").split()[1:]:
        assert part not in refusal.value.message


def test_the_scheme_is_not_case_sensitive() -> None:
    text = generate().text
    assert bearer(f"bearer {text}").text == text


def test_a_key_costs_one_query(issued: IssuedKey, django_assert_num_queries: Queries) -> None:
    with django_assert_num_queries(1):
        identify(token_of(issued), now=timezone.now())


@pytest.mark.django_db
def test_an_unknown_key_takes_the_same_work_as_a_known_one(
    issued: IssuedKey, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: Queries
) -> None:
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def counting(one: str, other: str) -> bool:
        compared.append((len(one), len(other)))
        return real(one, other)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    with django_assert_num_queries(1), pytest.raises(NotAuthenticated):
        identify(generate(), now=timezone.now())
    identify(token_of(issued), now=timezone.now())
    assert compared == [(64, 64), (64, 64)]


def test_a_forged_secret_for_a_known_id_is_refused(issued: IssuedKey) -> None:
    from console.keys.token import checksum

    body = f"ph_{issued.key.public_id}_{generate().text[16:49]}"
    forged = parse(body + checksum(body))
    assert forged is not None
    revoke(actor=Actor.person("test"), key=issued.key)
    with pytest.raises(NotAuthenticated, match="not known"):  # and learns nothing of the revocation
        identify(forged, now=timezone.now())


def test_another_pepper_opens_nothing(issued: IssuedKey, settings: Any) -> None:
    settings.KEY_PEPPER = "another"
    with pytest.raises(NotAuthenticated):
        identify(token_of(issued), now=timezone.now())


def test_an_expired_key_is_refused(issued: IssuedKey) -> None:
    ApiKey.objects.update(expires_at=timezone.now() + timedelta(seconds=5))
    identify(token_of(issued), now=timezone.now())
    with pytest.raises(NotAuthenticated, match="expired"):
        identify(token_of(issued), now=timezone.now() + timedelta(seconds=5))


@pytest.mark.django_db(transaction=True)
async def test_a_failed_query_does_not_spoil_the_reader_for_the_next(issued: IssuedKey) -> None:
    from django.db import DatabaseError, connection

    def broken() -> None:
        with connection.cursor() as cursor:
            cursor.execute("SELECT no_such_column FROM keys_apikey")

    for _ in range(8):
        with pytest.raises(DatabaseError):
            await read(broken)
    assert await read(ApiKey.objects.count) == 1
    assert settings.KEY_PEPPER
