"""OpenMP's threads leave the cores to compiled layers, unless the operator wants otherwise."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

PROGRAM = "import inference, os; print(os.environ['GOMP_SPINCOUNT'])"


@pytest.mark.parametrize(("given", "found"), [(None, "10000"), ("5", "5")])
def test_waiting_threads_soon_sleep(given: str | None, found: str) -> None:
    rest = {name: value for name, value in os.environ.items() if name != "GOMP_SPINCOUNT"}
    environment = rest if given is None else {**rest, "GOMP_SPINCOUNT": given}
    said = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True
    )
    assert said.stdout.strip() == found
