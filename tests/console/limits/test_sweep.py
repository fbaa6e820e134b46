"""A killed server's requests: settled when the next one starts, and charged what they had reserved."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from django.conf import settings
from django.db import connection
from django.utils import timezone

from console.audit.actor import Actor
from console.database.process_lease import Lease, is_running
from console.keys.actions import IssuedKey
from console.limits.actions import set_budget
from console.limits.models import Limit, Ticket
from console.limits.sweep import settle_orphans
from console.usage.models import UsageRecord

pytestmark = pytest.mark.django_db(transaction=True)

SERVER = """
import asyncio, os, sys, time
os.environ["DJANGO_SETTINGS_MODULE"] = "console.settings"
import django
django.setup()
from console.keys.models import ApiKey
from console.limits.reserve import extend, reserve
from tests.console.limits.requests import caller_of

async def main():
    key = await ApiKey.objects.aget()
    ticket = await reserve(caller=caller_of(key), request_id="cut-off", prompt_tokens=100, output_tokens=256,
                           model="smollm2-135m", endpoint="chat.completions", transport="sse")
    assert await extend(ticket, output_tokens=44)
    print("in flight", flush=True)
    time.sleep(60)

asyncio.run(main())
"""


def database_url() -> str:
    kept = connection.settings_dict
    if connection.vendor == "sqlite":
        return f"sqlite:///{quote(str(kept['NAME']))}"
    login = f"{quote(kept['USER'])}:{quote(kept['PASSWORD'])}"
    return f"postgresql://{login}@{quote(kept['HOST'], safe='')}:{kept['PORT'] or 5432}/{kept['NAME']}"


@pytest.fixture
def server(issued: IssuedKey) -> subprocess.Popen[str]:
    """Another server on this DATA_DIR, with one request in flight."""
    set_budget(actor=Actor.person("test"), key=issued.key, budget_tokens=1000)
    data_dir = Path(settings.LEASE_DIR).parent
    process = subprocess.Popen(
        [sys.executable, "-c", SERVER],
        env=os.environ | {"DATABASE_URL": database_url(), "DATA_DIR": str(data_dir)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None and process.stdout.readline() == "in flight\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_a_killed_servers_request_is_settled_once(server: subprocess.Popen[str]) -> None:
    assert settle_orphans().total() == 0  # it runs: its request is its own
    assert Limit.objects.get().reserved_tokens == 400
    kill(server)

    assert settle_orphans().total() == 1
    limit, row = Limit.objects.get(), UsageRecord.objects.get()
    assert (limit.used_tokens, limit.reserved_tokens) == (400, 0)
    assert (row.request_id, row.outcome, row.error_code) == ("cut-off", "failed", "server_died")
    assert (row.prompt_tokens, row.completion_tokens) == (100, 300)
    assert (row.model, row.endpoint, row.transport) == ("smollm2-135m", "chat.completions", "sse")
    assert settle_orphans().total() == 0
    assert UsageRecord.objects.count() == 1


def test_a_dead_servers_lease_is_forgotten_with_its_last_ticket(server: subprocess.Popen[str]) -> None:
    lease = Path(settings.LEASE_DIR) / Ticket.objects.get().server
    kill(server)
    assert lease.exists()
    settle_orphans()
    assert not lease.exists()


def test_a_server_elsewhere_is_given_time(issued: IssuedKey) -> None:
    columns = {
        "owner": "x",
        "team": issued.key.team,
        "key": issued.key,
        "prompt_tokens": 1,
        "output_tokens": 1,
    }
    now = timezone.now()
    Ticket.objects.create(request_id="young", server="elsewhere", created_at=now, **columns)
    Ticket.objects.create(
        request_id="old", server="elsewhere", created_at=now - timedelta(hours=3), **columns
    )
    assert settle_orphans().total() == 1
    assert UsageRecord.objects.get().request_id == "old"
    assert Ticket.objects.get().request_id == "young"


def test_a_lease_lasts_as_long_as_its_holder(tmp_path: Path) -> None:
    lease = Lease(tmp_path)
    assert is_running(lease.server, folder=tmp_path) is True
    lease.release()
    assert is_running(lease.server, folder=tmp_path) is False
    assert is_running("never-heard-of", folder=tmp_path) is None
