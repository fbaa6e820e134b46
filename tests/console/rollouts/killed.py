"""A process that kills children of its own, kill -9, at every write of every transition of a rollout.

Run by test_kill.py with a DATA_DIR of its own. After each kill the database must be legal, and the same act
must succeed on it. Prints as JSON how many kills each act has survived.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from console.audit.actor import Actor

Act = Callable[[], object]


class Killer:
    """Counts the writes of this process, commits included, and kills it at one of them."""

    def __init__(self, at: int) -> None:
        self.left = at

    def reached(self) -> None:
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1

    def __call__(self, execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        result = execute(sql, params, many, context)
        if not sql.startswith("SELECT"):
            self.reached()
        return result


def killed_at(point: int, act: Act) -> bool:
    """Whether a child that does `act` was killed at its write number `point`; else it has succeeded."""
    from django.db import connection, transaction

    connection.close()
    child = os.fork()
    if child == 0:
        killer, commit = Killer(point), connection._commit  # type: ignore[attr-defined]

        def commit_or_die() -> None:
            killer.reached()
            commit()
            killer.reached()

        connection._commit = commit_or_die  # type: ignore[attr-defined]
        with connection.execute_wrapper(killer), transaction.atomic():  # in this thread, not in the ledger's
            act()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status) or os.waitstatus_to_exitcode(status) == 0, status
    return os.WIFSIGNALED(status)


def survive(act: Act, data: Path, kept: Path) -> int:
    """Kill `act` at each of its writes; after each kill, look and do it again. At last it is done."""
    from django.db import connection, transaction

    from console.audit.anchor import ANCHOR
    from console.rollouts.models import Rollout
    from tests.console.rollouts.rows import assert_legal

    def position() -> list[Any]:
        return list(Rollout.objects.values_list("pk", "version", "state", "step_index"))

    before, point = position(), 0
    connection.close()
    shutil.copytree(data, kept, dirs_exist_ok=True)
    while killed_at(point, act):
        assert_legal()
        if position() == before:  # the kill came before the commit: nothing has happened
            with transaction.atomic():
                act()
            assert_legal()
        connection.close()
        shutil.rmtree(data)
        shutil.copytree(kept, data)
        ANCHOR.forget()  # this process would notice that the audit log went back
        point += 1
    assert_legal()
    assert position() != before
    return point


def story() -> list[tuple[str, Act]]:
    """Acts that follow one another, on rollout 1, 2 and so on."""
    from django.utils import timezone

    from console.catalog.models import Deployment
    from console.rollouts import actions
    from console.rollouts.tick import tick
    from tests.console.rollouts.rows import begun, observe

    def tick_in(seconds: int) -> Act:
        return lambda: tick(timezone.now() + timedelta(seconds=seconds))

    def on(act: Callable[..., object], rollout: int) -> Act:
        return lambda: act(actor=Actor.person("maria"), rollout=rollout)

    def fail() -> None:
        observe("stub-2", Deployment.State.FAILED, reason="died")
        tick(timezone.now() + timedelta(seconds=1))

    def ready() -> None:
        observe("stub-2", Deployment.State.READY)
        tick(timezone.now())

    return [
        ("start", begun),
        ("begin", ready),
        ("pause passed", tick_in(61)),
        ("hold", on(actions.pause, 1)),
        ("resume", on(actions.resume, 1)),
        ("advance", on(actions.advance, 1)),
        ("promote", on(actions.promote, 1)),
        ("undo", on(actions.undo, 1)),
        ("start again", begun),
        ("candidate dies", fail),
        ("start a third", begun),
        ("abort", on(actions.abort, 3)),
        (
            "switch",
            lambda: actions.switch(actor=Actor.person("maria"), route="stub", weights={"stub-2": 100}),
        ),
        ("release", on(actions.release, 4)),
    ]


def main() -> None:
    import django

    from console.environment import environment, name_settings

    name_settings()
    django.setup()
    from django.core.management import call_command

    from tests.console.rollouts.rows import furnish

    call_command("migrate", verbosity=0)
    furnish()
    data = environment().data_dir
    kept = data.with_name(f"{data.name}-kept")
    print(json.dumps({name: survive(act, data, kept) for name, act in story()}))


if __name__ == "__main__":
    main()
