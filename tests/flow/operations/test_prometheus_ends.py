"""A Prometheus that ends: the page draws its own series, and says what it tried."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.browser.conftest import sign_in
from tests.flow.house import eventually
from tests.flow.operations.test_prometheus import Watched, watched

__all__ = ["watched"]  # a fixture: a house and a Prometheus of this module's own

pytestmark = pytest.mark.server


def test_the_page_asks_prometheus_and_falls_back_to_its_own_series(watched: Watched) -> None:
    house = watched.house
    ids = ("requests", "tokens_out", "first_token", "cpu", "arm_weight", "jobs")
    url = "/panels/series?range=15m&" + "&".join(f"panel={one}" for one in ids)
    with httpx.Client(base_url=house.url, timeout=30) as client:
        sign_in(client, "admin", house.password)
        from_prometheus = eventually(lambda: drawn(client, url, "prometheus"))
        watched.server.terminate()
        watched.server.wait()
        from_own = client.get(url).json()
    assert (from_prometheus["source"], from_prometheus["notice"]) == ("prometheus", "")
    assert from_own["source"] == "own" and watched.url in from_own["notice"]
    theirs, ours = peaks(from_prometheus), peaks(from_own)
    assert {"finished", "failed"} <= ours.keys() == theirs.keys()
    # Windows differ (four scrapes of each): of rates only the lines are compared, their arithmetic is above.
    assert ours["stub stub-1"] == theirs["stub stub-1"] == 100
    assert min(ours["finished"], theirs["finished"]) > 0


def drawn(client: httpx.Client, url: str, source: str) -> Any:
    """The panels, once they come from there: a Prometheus that takes long is not waited for."""
    answer = client.get(url).json()
    return answer if answer["source"] == source else None


def peaks(answer: dict[str, Any]) -> dict[str, float]:
    return {
        line["name"]: max(value for value in line["values"] if value is not None)
        for panel in answer["panels"]
        for line in panel["series"]
    }
