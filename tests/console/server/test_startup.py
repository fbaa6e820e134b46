"""`serve` imports without the garbage collector, and serves with it; other commands never lose it."""

from __future__ import annotations

import gc
import subprocess
import sys
from collections.abc import Iterator
from unittest.mock import AsyncMock, Mock

import pytest

from console.audit import watch
from console.server import startup
from console.usage import refused_requests

WITHOUT_COMMANDS = (
    "import gc, sys\n"
    "from django.core import management\n"
    "management.execute_from_command_line = lambda argv: print(gc.isenabled())\n"
    "import manage; manage.main()\n"
)


@pytest.mark.parametrize(("command", "is_enabled"), [("serve", "False"), ("issue_key", "True")])
def test_the_collector_is_off_while_serve_is_imported(command: str, is_enabled: str) -> None:
    found = subprocess.run(
        [sys.executable, "-c", WITHOUT_COMMANDS, command], capture_output=True, text=True, check=True
    )
    assert found.stdout.strip() == is_enabled


@pytest.fixture
def collector_off() -> Iterator[None]:
    gc.disable()
    yield
    gc.unfreeze()
    gc.enable()


@pytest.mark.usefixtures("collector_off")
async def test_the_collector_is_on_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[bool] = []
    monkeypatch.setattr(startup.client, "configure", Mock(return_value=Mock(start=AsyncMock())))
    monkeypatch.setattr(startup, "provide_figures", Mock())
    monkeypatch.setattr(startup, "RECORDER", Mock())
    monkeypatch.setattr(startup, "REFUSALS", Mock())
    monkeypatch.setattr(watch, "WATCH", Mock())
    monkeypatch.setattr(refused_requests, "REFUSED_LOG", Mock())
    monkeypatch.setattr(
        startup, "_first_loads", AsyncMock(side_effect=lambda say: found.append(gc.isenabled()))
    )
    await startup.start_engine(lambda line: None)
    assert found == [True]
