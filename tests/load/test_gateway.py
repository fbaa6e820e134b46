"""The measurement of the gateway's cost per token stays runnable, and every token of it arrives."""

from __future__ import annotations

import pytest

from tests.load.gateway import COLUMNS, measure

pytestmark = [pytest.mark.server, pytest.mark.slow]


def test_all_streams_get_all_their_tokens() -> None:
    found = measure(num_streams=4, num_tokens=80, step_ms=10, host_ms=0.1)  # it checks readers and ledger
    assert set(found) == set(COLUMNS)
    assert found["cpu_us_per_token"] > found["loop_us"] > 0
    assert 0.8 < found["tokens_per_event"] < 80
