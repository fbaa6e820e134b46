"""The measurement of the gateway's cost per token stays runnable, and every token of it arrives."""

from __future__ import annotations

import pytest

from tests.load.gateway import COLUMNS, paced, shaped

pytestmark = [pytest.mark.server, pytest.mark.slow]


def test_all_streams_get_all_their_tokens() -> None:
    found = paced(num_streams=4, num_tokens=400, step_ms=10, host_ms=0.1)  # it checks readers and ledger
    assert set(found) == set(COLUMNS)
    assert found["cpu_us_per_token"] > found["loop_us"] > 0
    assert 0.8 < found["tokens_per_event"] < 400


def test_a_real_engine_is_served_beside_what_it_makes_alone() -> None:
    found = shaped(num_streams=2, num_tokens=500, shape="tiny", quantization=None)
    assert set(found) == set(COLUMNS)
    assert found["share_of_engine"] > 0.05
    assert found["tokens_per_second"] > 10
