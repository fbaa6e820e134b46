"""A real Prometheus scrapes the real server under load: every panel has data, and both backends agree."""

from __future__ import annotations

import math
import subprocess
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest

from monitoring.grafana.dashboards import MODEL, dashboards
from monitoring.panels.evaluate import Track, evaluate
from monitoring.panels.listing import PANELS, SAMPLE_NAMES
from tests.flow.house import ROOT, House, eventually, free_port
from tests.flow.requests import body, create, frames_until_end, socket
from tests.services import prometheus

pytestmark = pytest.mark.server

LOAD_SECONDS = 14.0
WINDOW = 10
WORDS = ("hello", "fail-after-3", "queue one", "refuse", "slow down")
EVERY_EXPRESSION = [
    pytest.param(target["expr"], id=f"{dashboard['uid']}-{panel['title']}-{target['refId']}")
    for dashboard in dashboards().values()
    for panel in dashboard["panels"]
    for target in panel["targets"]
]


@dataclass
class Watched:
    """A house with traffic, and the Prometheus that has been scraping it."""

    house: House
    url: str
    server: subprocess.Popen[bytes]
    asked_at: float = field(default_factory=lambda: round(time.time(), 3))

    def query(self, expression: str, **more: Any) -> list[dict[str, Any]]:
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression, **more}).json()
        assert answer["status"] == "success", answer
        return list(answer["data"]["result"])

    def scraped_at(self) -> float:
        (one,) = self.query("timestamp(up)")
        return float(one["value"][1])


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    url = f"http://127.0.0.1:{port}"
    with (
        House(tmp_path_factory.mktemp("scraped"), PROMETHEUS_URL=url) as house,
        prometheus(folder, port=port, target=f"127.0.0.1:{house.port}") as server,
    ):
        drive(house, seconds=LOAD_SECONDS)
        watched = Watched(house, url, server)
        eventually(lambda: watched.scraped_at() > watched.asked_at)  # nothing older comes any more
        yield watched


def drive(house: House, *, seconds: float) -> None:
    """Requests of every kind by two programs, one of them over a WebSocket."""
    until = time.monotonic() + seconds

    def over_http() -> None:
        with httpx.Client(base_url=house.url, headers=house.headers(), timeout=30) as client:
            number = 0
            while time.monotonic() < until:
                number += 1
                model = "stub" if number % 6 else "unknown"
                client.post("/v1/chat/completions", json=body(WORDS[number % len(WORDS)], model=model))
                time.sleep(0.05)

    program = threading.Thread(target=over_http)
    program.start()
    with socket(house) as connection:
        while time.monotonic() < until:
            connection.send(create("hello"))
            frames_until_end(connection)
            time.sleep(0.1)
    program.join()


@pytest.mark.parametrize("expression", EVERY_EXPRESSION)
def test_every_panel_of_grafanas_dashboards_has_data(watched: Watched, expression: str) -> None:
    asked = expression.replace("$__rate_interval", f"{WINDOW}s").replace("$model", ".*")
    assert "$" not in asked
    found = watched.query(asked, time=watched.asked_at)
    values = [float(one["value"][1]) for one in found]
    assert any(math.isfinite(value) for value in values), expression


class Scraped:
    """The samples that Prometheus holds, for our own evaluation."""

    def __init__(self, watched: Watched) -> None:
        names = "|".join(sorted(SAMPLE_NAMES))
        found = watched.query(f'{{__name__=~"{names}"}}[5m]', time=watched.asked_at)
        self._tracks: dict[str, list[Track]] = {}
        for one in found:
            labels = dict(one["metric"])
            times, values = zip(*((at, float(value)) for at, value in one["values"]), strict=True)
            self._tracks.setdefault(labels.pop("__name__"), []).append(Track(labels, times, values))

    def tracks(self, name: str) -> Iterable[Track]:
        return self._tracks.get(name, [])


def test_our_own_evaluation_of_the_same_samples_equals_prometheus(watched: Watched) -> None:
    scraped = Scraped(watched)
    compared = 0
    for at in (watched.asked_at - 8, round(watched.asked_at - 4.321, 3), watched.asked_at):
        for panel in PANELS.values():
            for line in panel.lines:
                ours = evaluate(line.query, scraped, at=[at], window=WINDOW)
                theirs = watched.query(line.query.promql(window=f"{WINDOW}s"), time=f"{at:.3f}")
                found = {
                    tuple(one["metric"].get(label, "") for label in line.query.by): float(one["value"][1])
                    for one in theirs
                }
                shown = {key: value for key, value in found.items() if math.isfinite(value)}
                mine = {key: value for key, (value,) in ours.items() if value is not None}
                assert mine == pytest.approx(shown, rel=1e-6, abs=1e-9), (panel.id, at)
                compared += len(shown)
    assert compared > 60


def test_a_model_in_the_filter_leaves_only_its_series(watched: Watched) -> None:
    expression = f"sum ({'pilothouse_engine_up'}{{{MODEL}}})"
    assert watched.query(expression.replace("$model", "stub"))
    assert not watched.query(expression.replace("$model", "another"))


def test_promtool_accepts_the_shipped_configuration() -> None:
    command = ["promtool", "check", "config", str(ROOT / "docker/prometheus/prometheus.yml")]
    checked = subprocess.run(command, check=False, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_data_source_scrapes_as_often_as_the_console_believes() -> None:
    from monitoring.panels.drawing import SCRAPE_SECONDS

    shipped = (ROOT / "docker/prometheus/prometheus.yml").read_text()
    provisioned = (ROOT / "docker/grafana/provisioning/datasources/pilothouse.yml").read_text()
    assert f"scrape_interval: {SCRAPE_SECONDS}s" in shipped
    assert f"timeInterval: {SCRAPE_SECONDS}s" in provisioned
