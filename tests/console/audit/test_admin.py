"""The audit log's pages: read and searched by every role, changed by nobody, exported and checked again."""

from __future__ import annotations

import csv
import io
import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from asgiref.sync import async_to_sync
from django.core.management import call_command
from django.test import Client

from console.accounts.models import User
from console.accounts.roles import Role
from console.audit.actor import Actor
from console.audit.anchor import ANCHOR
from console.audit.chain import code_of, coded_text, hash_of
from console.audit.models import Entry, Head
from console.audit.queries import known_actions
from console.audit.verify import Verdict, verify, verify_export
from console.audit.watch import WATCH, Watch
from console.audit.write import write
from tests.audit_triggers import lift_triggers, run
from tests.counting import MOST_OF_A_PAGE, costs_of_pages

pytestmark = pytest.mark.django_db

LIST = "/admin/audit/entry/"
HOSTILE = "<script>alert(1)</script>"
BACKEND = "django.contrib.auth.backends.ModelBackend"
NUM_MANY = 100_000

SignIn = Callable[[Role], Client]


@pytest.fixture
def sign_in(make_user: Callable[[Role], User]) -> SignIn:
    def signed_in(role: Role) -> Client:
        client = Client()
        client.force_login(make_user(role), backend=BACKEND)
        return client

    return signed_in


@pytest.fixture(autouse=True)
def _a_fresh_watch() -> Iterator[None]:
    WATCH.forget()
    yield
    WATCH.forget()


@pytest.fixture
def log(db: None) -> None:
    for number in range(30):
        detail = {"number": number, "name": HOSTILE}
        write(
            actor=Actor.person(f"user-{number % 3}", ip="10.0.0.7"),
            action="key.issued",
            target="key:a",
            detail=detail,
        )
    write(actor=Actor.person("eva"), action="team.created", target="team:9", detail={"name": "härbour"})


def downloaded(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200 and "attachment" in answer["Content-Disposition"]

    async def read() -> bytes:
        return b"".join([part async for part in answer.streaming_content])  # type: ignore[attr-defined]

    return async_to_sync(read)().decode()


@pytest.mark.parametrize("role", list(Role))
def test_every_role_reads_entries_and_their_detail(role: Role, sign_in: SignIn, log: None) -> None:
    client = sign_in(role)
    assert "team:9" in client.get(LIST).content.decode()
    page = client.get(f"{LIST}{Entry.objects.get(actor='eva').seq}/change/").content.decode()
    assert "&quot;name&quot;: &quot;härbour&quot;" in page
    assert "_save" not in page


def test_a_stranger_and_somebody_disabled_read_nothing(make_user: Callable[[Role], User]) -> None:
    user, client = make_user(Role.ADMIN), Client()
    assert client.get(LIST).status_code == 302
    client.force_login(user, backend=BACKEND)
    user.is_active = False
    user.save()
    for path in (LIST, f"{LIST}export/", f"{LIST}export.csv"):
        assert client.get(path).status_code == 302


@pytest.mark.parametrize(
    ("query", "num_found"),
    [
        ("q=team%3A9", 1),
        ("q=h%C3%A4rbour", 0),  # the detail is kept as ASCII
        ("action=team.created", 1),
        ("actor=user-1", 10),
        ("actor=user", 0),
        ("q=10.0.0.7&actor=user-2", 10),
        ("at_from=2020-01-01&at_to=2020-01-02", 0),
    ],
)
def test_search_and_filters_find_what_they_name(
    query: str, num_found: int, sign_in: SignIn, log: None
) -> None:
    found = sign_in(Role.VIEWER).get(f"{LIST}?{query}")
    assert found.context["cl"].result_count == num_found
    assert len(found.context["cl"].result_list) == num_found


def test_a_date_finds_the_entries_of_its_days(sign_in: SignIn, log: None) -> None:
    today = datetime.now(UTC).date()
    query = f"at_from={today - timedelta(days=1)}&at_to={today}"
    assert sign_in(Role.VIEWER).get(f"{LIST}?{query}").context["cl"].result_count >= 31
    assert sign_in(Role.ADMIN).get(f"{LIST}?at_from=nonsense").status_code == 200


def test_what_people_typed_is_never_run(sign_in: SignIn, log: None) -> None:
    client = sign_in(Role.VIEWER)
    write(actor=Actor.person(HOSTILE), action="x", target=HOSTILE)
    last = Entry.objects.order_by("-seq")[0]
    for path in (LIST, f"{LIST}{last.seq}/change/", f"{LIST}?q={HOSTILE}&actor={HOSTILE}"):
        assert HOSTILE not in client.get(path).content.decode()


def test_the_list_says_how_far_the_chain_was_checked(sign_in: SignIn, log: None) -> None:
    client = sign_in(Role.VIEWER)
    page = client.get(LIST).content.decode()
    assert "The chain is intact" in page and f"Verified to entry {Entry.objects.count()}, 0 s ago" in page
    client.cookies["django_language"] = "zh-hans"
    page = client.get(LIST).content.decode()
    assert "The chain is intact" not in page and '<html lang="zh-hans"' in page


def tamper(statement: str) -> None:
    lift_triggers()
    run([statement])


def test_the_list_names_the_first_bad_entry(sign_in: SignIn, log: None) -> None:
    tamper("UPDATE audit_entry SET actor = 'someone else' WHERE seq = 7")
    page = sign_in(Role.VIEWER).get(LIST).content.decode()
    assert "The chain is broken at entry 7" in page
    assert "its content does not fit its hash" in page


def test_a_long_log_is_checked_a_stretch_at_a_time(log: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("console.audit.watch.STRETCH", 10)
    states = [WATCH.look() for _ in range(4)]
    assert [state.seq for state in states] == [10, 20, 30, 0]
    assert states[2].verdict is None
    assert states[3].verdict is not None and states[3].verdict.num_entries == 31
    write(actor=Actor.person("a"), action="later", target="")
    extended = WATCH.look()
    assert extended.verdict is not None and extended.verdict.num_entries == 32
    assert extended.age_seconds > states[3].age_seconds  # of the whole check
    tamper("UPDATE audit_entry SET actor = 'someone else' WHERE seq = 3")
    monkeypatch.setattr("console.audit.watch.FRESH_SECONDS", 0.0)
    found = WATCH.look().verdict
    assert found is not None and found.first_bad == 3


@pytest.mark.django_db(transaction=True)
def test_the_server_checks_the_chain_by_itself(log: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("console.audit.watch.PAUSE_SECONDS", 0.001)
    monkeypatch.setattr("console.audit.watch.STRETCH", 10)
    watch = Watch()
    watch.start()
    watch.start()
    try:
        deadline = time.monotonic() + 60
        while watch.verdict is None and time.monotonic() < deadline:
            time.sleep(0.01)
    finally:
        watch.stop()
    assert watch.verdict == Verdict(31)


def test_an_export_is_the_whole_log_and_passes_the_verifier(
    sign_in: SignIn, log: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("console.audit.export.NUM_ENTRIES_READ", 7)  # several reads
    text = downloaded(sign_in(Role.VIEWER), f"{LIST}export/")
    lines = text.splitlines()
    assert json.loads(lines[-1])["action"] == "audit.exported"
    verdict = verify_export(lines)
    assert (verdict.is_intact, verdict.num_entries) == (True, Entry.objects.count())
    kept = tmp_path / "audit.jsonl"
    kept.write_text(text)
    out = io.StringIO()
    call_command("audit_verify", export=kept, stdout=out)
    assert "intact" in out.getvalue()


def test_an_export_that_was_touched_does_not_pass(sign_in: SignIn, log: None) -> None:
    lines = downloaded(sign_in(Role.VIEWER), f"{LIST}export/").splitlines()
    edited = [*lines[:4], lines[4].replace("key:a", "key:b"), *lines[5:]]
    assert verify_export(edited).first_bad == 5
    assert verify_export([*lines[:4], *lines[5:]]).first_bad == 5
    assert verify_export([*lines[:4], "{}", *lines[5:]]).first_bad == 5
    assert verify_export(lines[:9]).is_intact  # an export of earlier
    forged = json.loads(lines[0]) | {"actor": "mallory"}
    entry = Entry(**{**forged, "at": datetime.fromisoformat(forged["at"])})
    forged["hash"] = hash_of(entry)  # a chain of its own, but not this server's
    assert verify_export([json.dumps(forged)]).first_bad == 1


def test_the_csv_is_what_the_list_shows_and_no_formula(sign_in: SignIn, log: None) -> None:
    write(actor=Actor.person("=cmd()"), action="team.created", target="-1+2")
    text = downloaded(sign_in(Role.VIEWER), f"{LIST}export.csv?action=team.created")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["actor"] for row in rows] == ["eva", "'=cmd()"]
    assert rows[1]["target"] == "'-1+2"


@pytest.mark.parametrize("path", ["export/", "export.csv"])
def test_an_export_is_itself_an_entry(path: str, sign_in: SignIn, log: None) -> None:
    client = sign_in(Role.OPERATOR)
    before = Entry.objects.count()
    downloaded(client, LIST + path)
    entry = Entry.objects.get(seq=before + 1)
    assert (entry.actor, entry.action) == ("the-operator", "audit.exported")
    assert Entry.objects.count() == before + 1


def test_known_actions_are_each_named_once(log: None) -> None:
    assert known_actions() == sorted(set(Entry.objects.values_list("action", flat=True)))


@pytest.mark.slow
def test_pages_cost_little_over_a_hundred_thousand_entries(sign_in: SignIn) -> None:
    client = sign_in(Role.VIEWER)
    client.get(LIST)
    grow(NUM_MANY)
    WATCH.forget()
    queries = ("", "?p=1500", "?action=key.issued", "?actor=user-7", "?q=key%3A99999", "?q=nowhere")
    costs = costs_of_pages(client, [LIST + query for query in queries])
    assert {path: cost for path, cost in costs.items() if not cost.is_within(MOST_OF_A_PAGE)} == {}
    while WATCH.look().verdict is None:
        pass
    assert verify().is_intact


def grow(num_entries: int) -> None:
    """A long log, as `write` would have made it, in bulk."""
    head = Head.objects.get(pk=1)
    seq, last_hash, now = head.seq, head.hash, datetime.now(UTC)
    entries = []
    for number in range(seq + 1, seq + num_entries + 1):
        entry = Entry(
            seq=number,
            at=now + timedelta(milliseconds=number),
            actor=f"user-{number % 50}",
            ip="10.0.0.7",
            action=("key.issued", "key.revoked", "login.succeeded", "limit.set")[number % 4],
            target=f"key:{number}",
            detail='{"team":"default"}',
            prev_hash=last_hash,
        )
        entry.hash = last_hash = hash_of(entry)
        entry.mac = code_of(coded_text(number, last_hash))
        entries.append(entry)
    Entry.objects.bulk_create(entries, batch_size=100)
    head.seq, head.hash = entries[-1].seq, last_hash
    head.save()
    ANCHOR.advance(seq=head.seq)
