"""issue_key and revoke_key, as a person at the command line sees them."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from console.audit.models import Entry
from console.keys.models import ApiKey
from console.keys.token import parse
from console.limits.models import Limit

pytestmark = pytest.mark.django_db


def run(*arguments: str) -> str:
    out = StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def test_issue_key_prints_only_the_secret() -> None:
    printed = run("issue_key", "laptop")
    token = parse(printed.removesuffix("\n"))
    assert token is not None
    key = ApiKey.objects.get()
    assert (key.public_id, key.name, key.team.name) == (token.public_id, "laptop", "default")
    assert not Limit.objects.exists()


def test_issue_key_takes_a_budget_and_an_end() -> None:
    run("issue_key", "laptop", "--budget", "5000", "--expires", "P30D")
    key = ApiKey.objects.get()
    assert Limit.objects.get().budget_tokens == 5000
    assert key.expires_at is not None
    assert abs(key.expires_at - timezone.now() - timedelta(days=30)) < timedelta(minutes=1)
    assert list(Entry.objects.order_by("seq").values_list("action", flat=True)) == ["key.issued", "limit.set"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--budget", "0"),
        ("--budget", "-3"),
        ("--team", "nobody"),
        ("--expires", "2020-01-01T00:00"),
        ("--expires", "soon"),
        ("--expires", "2027-02-31T00:00"),
    ],
)
def test_issue_key_refuses_what_makes_no_sense_and_leaves_no_key(arguments: tuple[str, ...]) -> None:
    with pytest.raises(CommandError):
        run("issue_key", "laptop", *arguments)
    assert not ApiKey.objects.exists()
    assert not Entry.objects.exists()


def test_revoke_key_ends_a_key_once() -> None:
    run("issue_key", "laptop")
    key = ApiKey.objects.get()
    assert "Revoked" in run("revoke_key", key.public_id)
    key.refresh_from_db()
    assert key.revoked_at is not None
    with pytest.raises(CommandError):
        run("revoke_key", key.public_id)
    with pytest.raises(CommandError):
        run("revoke_key", "nothing")
