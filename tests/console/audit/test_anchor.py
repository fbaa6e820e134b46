"""Whoever tampers with the log is noticed, with the server writing on, and stays noticed."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from console.audit import checkpoint
from console.audit.actions import NoAlarm, NoReason, clear_alarm
from console.audit.actor import Actor
from console.audit.alarm import ALARMS
from console.audit.anchor import ANCHOR, MAX_BEHIND
from console.audit.checkpoint import BEGINNING, as_line
from console.audit.models import Entry
from console.audit.verify import verify
from console.audit.watch import WATCH, Watch
from console.audit.write import write
from tests.console.audit.insider import ATTACKS, OF_THE_HEAD, Attack, edit, edit_and_rewrite, sql, unseen

pytestmark = pytest.mark.django_db(transaction=True)

NUM_ENTRIES = 9


@pytest.fixture
def log() -> None:
    WATCH.forget()
    write_on(NUM_ENTRIES)
    assert verify().is_intact and ALARMS.current() is None


def write_on(num_entries: int) -> None:
    """As a stranger can make the server do: by wrong passwords."""
    for _ in range(num_entries):
        write(actor=Actor.anonymous(ip="203.0.113.9"), action="login.failed", target="user:x")


def watch() -> None:
    """What the server's own thread does, until it comes to a verdict."""
    one = Watch()
    while one.verdict is None:
        one.advance(older_than=0)


def restart() -> None:
    """What a process keeps in memory is gone."""
    ANCHOR.forget()
    WATCH.forget()


def stays_noticed() -> None:
    alarm = ALARMS.current()
    assert alarm is not None
    for _ in range(3):
        write_on(4)
        restart()
        watch()
    assert ALARMS.current() == alarm
    with pytest.raises(SystemExit):
        call_command("audit_verify", stdout=io.StringIO())


@pytest.mark.parametrize("num_written", [0, 1, 4])
@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_an_insider_with_the_database_is_noticed_and_stays_noticed(
    log: None, attack: Attack, num_written: int
) -> None:
    unseen(attack)
    write_on(num_written)
    watch()
    stays_noticed()
    assert verify().is_intact == (attack in OF_THE_HEAD)


def test_the_checkpoint_stays_where_the_log_was_right(log: None) -> None:
    kept = checkpoint.load()
    unseen(edit_and_rewrite)
    write_on(5)
    assert checkpoint.load() == kept and ALARMS.current() is not None


def test_what_was_put_back_was_changed_all_the_same(log: None) -> None:
    was = Entry.objects.get(seq=3).actor
    unseen(edit)
    watch()
    unseen(lambda: sql("UPDATE audit_entry SET actor = %s WHERE seq = 3", was))
    assert verify().is_intact
    stays_noticed()


def remove(path: Path) -> None:
    path.unlink()


def empty(path: Path) -> None:
    path.write_text("")


def spoil(path: Path) -> None:
    path.write_bytes(b"\xff\x00{")


def shorten(path: Path) -> None:
    path.write_text('{"seq": 1}')


def forge(path: Path) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | {"seq": 2}))


def put_back_the_first(path: Path) -> None:
    path.write_text(as_line(BEGINNING))


def put_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


FILES = [remove, empty, spoil, shorten, forge, put_back_the_first, put_a_folder]


@pytest.mark.parametrize("harm", FILES, ids=lambda harm: harm.__name__)
def test_a_checkpoint_that_is_gone_or_wrong_is_an_alarm_and_the_server_writes_on(
    log: None, settings: Any, tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    settings.AUDIT_CHECKPOINT = tmp_path / "checkpoint.json"
    checkpoint.store(checkpoint.BEGINNING)
    write_on(1)
    harm(settings.AUDIT_CHECKPOINT)
    write_on(1)
    assert Entry.objects.count() == NUM_ENTRIES + 2
    stays_noticed()


@pytest.mark.parametrize("harm", FILES[:5], ids=lambda harm: harm.__name__)
def test_it_is_noticed_by_looking_alone_after_a_restart(
    log: None, settings: Any, harm: Callable[[Path], None]
) -> None:
    restart()
    harm(Path(settings.AUDIT_CHECKPOINT))
    assert not verify().is_intact
    watch()
    stays_noticed()


def test_an_old_checkpoint_of_a_longer_log_is_noticed_after_a_restart(log: None) -> None:
    old = checkpoint.load()
    assert old is not None
    write_on(MAX_BEHIND + 1)
    restart()
    checkpoint.store(old)
    assert "old one" in verify().reason


def test_a_crash_between_commit_and_checkpoint_is_no_alarm(log: None) -> None:
    old = checkpoint.load()
    assert old is not None
    write_on(5)
    restart()
    checkpoint.store(old)
    assert verify().is_intact
    write_on(1)
    kept = checkpoint.load()
    assert kept is not None and kept.seq == NUM_ENTRIES + 6 and ALARMS.current() is None


def test_an_alarm_file_that_was_spoilt_is_an_alarm(log: None, settings: Any) -> None:
    Path(settings.AUDIT_ALARM).write_text("")
    assert ALARMS.current() is not None


def test_a_disk_that_takes_no_alarm_leaves_it_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, text: str) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("console.audit.alarm.write_durably", full)
    ALARMS.sound("a reason", first_bad=3)
    ALARMS.sound("another reason")
    alarm = ALARMS.current()
    assert alarm is not None and (alarm.reason, alarm.first_bad) == ("a reason", 3)


def test_a_person_clears_an_alarm_with_a_reason_and_a_row(log: None) -> None:
    with pytest.raises(NoAlarm):
        clear_alarm(actor=Actor.person("ada"), reason="nothing happened")
    unseen(edit_and_rewrite)
    write_on(1)
    with pytest.raises(NoReason):
        clear_alarm(actor=Actor.person("ada"), reason="  ")
    seq = clear_alarm(actor=Actor.person("ada", ip="10.0.0.1"), reason="restored from a backup")
    entry = Entry.objects.get(seq=seq)
    detail = json.loads(entry.detail)
    assert (entry.actor, entry.action, detail["reason"]) == (
        "ada",
        "audit.alarm_cleared",
        "restored from a backup",
    )
    assert "checkpoint names" in detail["alarm"]
    assert ALARMS.current() is None and verify().is_intact
    restart()
    write_on(3)
    watch()
    assert ALARMS.current() is None and verify().num_entries == seq + 3


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__name__)
def test_after_an_alarm_was_cleared_the_next_one_sounds(log: None, attack: Attack) -> None:
    unseen(edit)
    watch()
    clear_alarm(actor=Actor.person("ada"), reason="known")
    write_on(4)
    assert verify().is_intact
    unseen(attack)
    write_on(1)
    watch()
    stays_noticed()


def test_what_was_acknowledged_cannot_be_changed_further(log: None) -> None:
    unseen(lambda: sql("DELETE FROM audit_entry WHERE seq = 5"))
    watch()
    clear_alarm(actor=Actor.person("ada"), reason="known")
    assert verify().is_intact
    unseen(lambda: sql("UPDATE audit_entry SET target = 'user:z' WHERE seq = 2"))
    verdict = verify()
    assert not verdict.is_intact and "not as it was" in verdict.reason


def test_a_time_that_is_none_is_named_and_can_be_cleared(log: None) -> None:
    from django.db import connection

    if connection.vendor != "sqlite":
        pytest.skip("its columns have types")
    for garbage in ("yesterday", "2026-13-01 00:00:00"):
        unseen(lambda: sql("UPDATE audit_entry SET at = %s WHERE seq = 4", garbage))  # noqa: B023
        watch()
        assert not verify().is_intact
        clear_alarm(actor=Actor.person("ada"), reason="known")
        assert verify().is_intact and ALARMS.current() is None


def test_a_checkpoint_kept_elsewhere_tells_what_the_files_here_cannot(
    log: None, settings: Any, tmp_path: Path
) -> None:
    """Database and DATA_DIR together put back to an older state, the server stopped."""
    settings.AUDIT_CHECKPOINT_COPY = tmp_path / "elsewhere.jsonl"
    old, length = Path(settings.AUDIT_CHECKPOINT).read_text(), Entry.objects.count()
    write_on(4)
    out = io.StringIO()
    call_command("audit_checkpoint", stdout=out)
    assert out.getvalue() == settings.AUDIT_CHECKPOINT_COPY.read_text().splitlines()[-1] + "\n"
    call_command("audit_verify", checkpoint=settings.AUDIT_CHECKPOINT_COPY, stdout=io.StringIO())

    def put_back() -> None:
        sql("DELETE FROM audit_entry WHERE seq > %s", length)
        entry = Entry.objects.get(seq=length)
        sql("UPDATE audit_head SET seq = %s, hash = %s", entry.seq, entry.hash)

    unseen(put_back)
    Path(settings.AUDIT_CHECKPOINT).write_text(old)
    restart()
    assert verify().is_intact
    with pytest.raises(SystemExit):
        call_command("audit_verify", checkpoint=settings.AUDIT_CHECKPOINT_COPY, stdout=io.StringIO())
    assert ALARMS.current() is not None


def test_lines_that_this_server_did_not_sign_are_no_checkpoints(
    log: None, tmp_path: Path, settings: Any
) -> None:
    file = tmp_path / "elsewhere.jsonl"
    line = as_line(BEGINNING)
    for text in ("", "nonsense\n", line.replace('"seq": 0', '"seq": 1')):
        file.write_text(text)
        with pytest.raises(CommandError):
            call_command("audit_verify", checkpoint=file)
    settings.AUDIT_KEYS = ["another key"]
    file.write_text(line)
    with pytest.raises(CommandError):
        call_command("audit_verify", checkpoint=file)


def test_keys_are_changed_by_naming_the_former_one_behind_the_new(log: None, settings: Any) -> None:
    former = settings.AUDIT_KEYS
    settings.AUDIT_KEYS = ["a new key", *former]
    write_on(2)
    assert verify().is_intact
    settings.AUDIT_KEYS = ["a new key"]
    assert not verify().is_intact
