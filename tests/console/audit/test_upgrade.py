"""A log from before there were codes goes on, and is bound from its next entry on."""

from __future__ import annotations

import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import pytest
from django.utils import timezone

from console.audit import checkpoint
from console.audit.actor import Actor
from console.audit.alarm import ALARMS
from console.audit.chain import NO_HASH, hash_of
from console.audit.models import Entry, Head
from console.audit.verify import verify
from console.audit.write import write
from tests.console.audit.insider import rewrite_from, sql, unseen

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def old_log(settings: Any) -> None:
    """Seven entries and a checkpoint, as the version before wrote them."""
    last_hash = NO_HASH
    for seq in range(1, 8):
        entry = Entry(seq=seq, at=timezone.now(), actor="a", action="key.issued", prev_hash=last_hash)
        entry.hash = last_hash = hash_of(entry)
        entry.save()
    Head.objects.create(pk=1)
    sql("UPDATE audit_head SET seq = 7, hash = %s", last_hash)
    text = f"pilothouse.audit.checkpoint:7:{last_hash}"
    signature = hmac.new(settings.SECRET_KEY.encode(), text.encode(), hashlib.sha256).hexdigest()
    kept = {"seq": 7, "hash": last_hash, "signature": signature}
    Path(settings.AUDIT_CHECKPOINT).write_text(json.dumps(kept))


def test_it_is_intact_and_its_next_entry_says_from_where_on_there_are_codes(old_log: None) -> None:
    assert verify().is_intact
    write(actor=Actor.person("ada"), action="login.succeeded", target="user:ada")
    assert list(Entry.objects.filter(seq__gt=7).order_by("seq").values_list("seq", "action")) == [
        (8, "audit.keyed"),
        (9, "login.succeeded"),
    ]
    write(actor=Actor.person("ada"), action="logout", target="user:ada")
    assert Entry.objects.filter(action="audit.keyed").count() == 1
    kept = checkpoint.load()
    assert kept is not None and (kept.seq, kept.keyed_from) == (10, 8)
    assert verify().is_intact and ALARMS.current() is None


def test_what_is_older_than_the_codes_is_bound_by_the_first(old_log: None) -> None:
    write(actor=Actor.person("ada"), action="login.succeeded", target="user:ada")

    def edit() -> None:
        sql("UPDATE audit_entry SET actor = 'nobody' WHERE seq = 2")
        rewrite_from(2)

    unseen(edit)
    verdict = verify()
    assert verdict.first_bad == 8 and "code" in verdict.reason


def test_a_rewritten_old_log_is_noticed_by_the_first_write_after_the_upgrade(old_log: None) -> None:
    def edit() -> None:
        sql("UPDATE audit_entry SET actor = 'nobody' WHERE seq = 2")
        rewrite_from(2)

    unseen(edit)
    write(actor=Actor.person("ada"), action="login.succeeded", target="user:ada")
    assert ALARMS.current() is not None and not verify().is_intact
