"""What happens between "start" and "listening", and back: database, engine, first account, requests that a
crash cut off.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from django.core.management import call_command
from django.db import connections
from django.db.migrations.executor import MigrationExecutor

from console import trace_export
from console.audit.actor import Actor
from console.audit.refusals import REFUSALS
from console.catalog.conversion import OFFLINE
from console.database.group_commit import ledger
from console.database.storage_probe import STORAGE
from console.environment import Environment, child_variables, environment
from console.gateway import drain
from console.jobs.runner import RUNNER
from console.server.database_metrics import provide_figures
from console.server.file_modes import OpenToOthers, close_to_others, private_paths
from console.server.reconciler import RECONCILER, Report
from inference import client
from inference.config import PlacementConfig
from monitoring import health, tracing
from monitoring.grafana.tokens import publish
from monitoring.panels.recorder import RECORDER

logger = logging.getLogger(__name__)

Say = Callable[[str], None]
MIN_FREE_BYTES = 200 * 1024 * 1024  # the database and its log; a model conversion checks for itself
SETTLE_SECONDS = 0.05  # between two looks at whether the first loads are through
FIRST_SIGN_IN = "first-sign-in.txt"
LANDING_SECONDS = 10.0  # for the last frames and usage rows once the engine has drained


class CannotStart(Exception):
    """Something outside must change first; the message says what."""


@dataclass(frozen=True, slots=True)
class FirstStart:
    """The first account's password and key, which the database does not have."""

    username: str
    password: str = field(repr=False)
    key: str = field(repr=False)

    def lines(self) -> str:
        return f"Sign in   {self.username} / {self.password}\nAPI key   {self.key}"

    def write_down(self, path: Path) -> None:
        """For this account alone: output that is no terminal is often a log that others read."""
        path.unlink(missing_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(f"{self.lines()}\n\nDelete this file once you have signed in and kept the key.\n")


def start_tracing() -> None:
    """Send traces from now on, where OTEL_EXPORTER_OTLP_ENDPOINT says so."""
    try:
        trace_export.start()
    except tracing.ExtraMissing as error:
        raise CannotStart(str(error)) from error


def prepare_database(say: Say) -> None:
    """Check the disk and who may read it, migrate where needed."""
    data_dir = environment().data_dir
    data_dir.mkdir(parents=True, exist_ok=True)
    try:
        close_to_others(private_paths(data_dir, connections["default"].settings_dict["NAME"]), say=say)
    except OpenToOthers as error:
        raise CannotStart(str(error)) from error
    free = shutil.disk_usage(data_dir).free
    if free < MIN_FREE_BYTES:
        raise CannotStart(
            f"{data_dir} has {free // 2**20} MB left, too little to keep a ledger: free some space."
        )
    executor = MigrationExecutor(connections["default"])
    if plan := executor.migration_plan(executor.loader.graph.leaf_nodes()):
        say(f"Preparing the database ({len(plan)} migrations)")
        call_command("migrate", interactive=False, verbosity=0)


def ensure_something_to_serve(say: Say) -> None:
    """The default model is fetched and converted where the catalog is empty, and anew where an earlier
    version converted it. What a crash left goes first.

    The files of what is served are then looked through while `start_engine` imports the engine.
    """
    from console.catalog.actions import ensure_default_model
    from console.catalog.files import sweep
    from console.catalog.models import Revision
    from console.deployments.startup_checks import STARTUP_CHECKS, loaded_first
    from console.rollouts.reconversion import renew

    sweep()
    if not Revision.objects.exists():
        ensure_default_model(progress=_shown(say), actor=Actor.system("serve"))
    renew(progress=_shown(say), actor=Actor.system("serve"))
    STARTUP_CHECKS.begin(loaded_first())


def _placement(env: Environment) -> PlacementConfig:
    return PlacementConfig(
        data_dir=env.data_dir, prepare_seconds=env.prepare_seconds, child_variables=child_variables(**OFFLINE)
    )


async def start_engine(say: Say) -> None:
    """Configure the placement, take the device, let the reconciler load; returns once what routes lead to is
    ready or has failed.
    """
    from console.audit.watch import WATCH
    from console.usage.refused_requests import REFUSED_LOG

    env = environment()
    engine = client.configure(env.engine, _placement(env))
    await engine.start()
    gc.freeze()
    gc.enable()  # all is imported, and stays: manage.py turned it off until here
    provide_figures()
    health.why_no_writes = STORAGE.why_not
    if env.grafana_url:
        publish(env.data_dir)
    RECORDER.start()
    REFUSALS.start()
    REFUSED_LOG.start()
    WATCH.start()
    await _first_loads(say)


async def _first_loads(say: Say) -> None:
    show = _shown(say)

    def failed(revision: str, reason: str) -> None:
        logger.error("revision %s could not be loaded: %s", revision, reason)

    RECONCILER.start(
        asyncio.get_running_loop(),
        Report(
            progress=lambda step: show(step.stage, step.fraction),
            ready=lambda card: say(
                f"Serving {card.revision} on {card.device}, {card.max_model_len} tokens of context"
            ),
            failed=failed,
        ),
    )
    is_told = False
    while not RECONCILER.is_settled.is_set():
        await asyncio.sleep(SETTLE_SECONDS)
        if RECONCILER.is_elsewhere.is_set() and not is_told:
            is_told = True
            say("Another server serves from this database; this one waits and takes over when it ends.")
    if not client.current().models():
        say("No model is loaded: requests are answered 503 until one is.")


def settle_and_greet() -> FirstStart | None:
    """Settle what a crash left, and at the very first start make the operator's account and a key.

    Last of all steps, so that what is shown once is not lost with a start that fails.
    """
    from console.accounts.actions import FIRST_OPERATOR, default_team, ensure_operator
    from console.audit import server_runs
    from console.database.process_lease import own_lease
    from console.jobs.recovery import recover
    from console.keys.actions import issue
    from console.limits.sweep import settle_orphans

    own_lease()
    recover()  # before the leases of the dead are forgotten
    crashed = list(server_runs.crashed_runs())
    lost = settle_orphans()
    for server in crashed:
        server_runs.write_crash(server, num_lost=lost[server])
    server_runs.write_start(num_lost=lost.total())
    RUNNER.start()
    password = ensure_operator(actor=Actor.system("serve"))
    if password is None:
        return None
    key = issue(actor=Actor.system("serve"), name="first key", team=default_team())
    first = FirstStart(username=FIRST_OPERATOR, password=password, key=key.secret)
    try:
        first.write_down(environment().data_dir / FIRST_SIGN_IN)
    except OSError:
        logger.exception("the first password and key cannot be written down")
    return first


async def drain_engine(seconds: float, hurry: asyncio.Event) -> None:
    """Take nothing new, let requests finish, cut the rest with an error event at the deadline or when told
    to hurry.
    """
    from console.audit.server_runs import THIS_RUN

    drain.begin_drain()
    THIS_RUN.is_draining = True
    await asyncio.to_thread(RECONCILER.stop)
    RUNNER.leave()
    engine = client.current()
    draining = asyncio.ensure_future(engine.drain(seconds))
    hurrying = asyncio.ensure_future(hurry.wait())
    await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    hurrying.cancel()
    if not draining.done():
        await engine.drain(0)
    await drain.wait_until_idle(LANDING_SECONDS)


async def stop_engine() -> None:
    """Free the device and write what the ledger still holds."""
    from console.audit.server_runs import write_stop
    from console.audit.watch import WATCH
    from console.usage.refused_requests import REFUSED_LOG

    await asyncio.to_thread(RUNNER.stop)
    await client.current().stop()
    await asyncio.to_thread(write_stop)
    await asyncio.to_thread(WATCH.stop)
    await asyncio.to_thread(REFUSALS.stop)
    await asyncio.to_thread(REFUSED_LOG.stop)
    await asyncio.to_thread(ledger().close)
    await asyncio.to_thread(trace_export.stop)


async def lifespan(scope: Any, receive: Any, send: Any) -> None:
    """Start and stop under any server that speaks ASGI's lifespan; `manage.py serve` does it for Daphne,
    which does not.
    """
    while True:
        message = await receive()
        if message["type"] == "lifespan.startup":
            try:
                start_tracing()
                await asyncio.to_thread(prepare_database, logger.info)
                await asyncio.to_thread(ensure_something_to_serve, logger.info)
                await start_engine(logger.info)
                await asyncio.to_thread(settle_and_greet)
            except Exception as error:
                logger.exception("start failed")
                await send({"type": "lifespan.startup.failed", "message": str(error)})
                return
            await send({"type": "lifespan.startup.complete"})
        else:
            await drain_engine(environment().drain_seconds, asyncio.Event())
            await stop_engine()
            await send({"type": "lifespan.shutdown.complete"})
            return


def _shown(say: Say) -> Callable[[str, float], None]:
    """Progress as lines: one per stage and tenth, so that a log stays readable."""
    last: list[tuple[str, int]] = []

    def show(stage: str, fraction: float) -> None:
        now = (stage, int(fraction * 10))
        if now not in last[-1:]:
            last[:] = [now]
            say(f"{fraction:4.0%}  {stage}")

    return show
