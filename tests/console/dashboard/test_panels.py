"""The panels page: what the browser may name, and what is said when Grafana or Prometheus does not answer."""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import jwt
import pytest
from django.test import Client

from console.accounts.roles import Role
from monitoring.grafana.reach import State, framed
from monitoring.grafana.tokens import AUDIENCE, FILE, ISSUER, key_set, publish, token
from monitoring.panels.listing import PANELS
from tests.console.dashboard.conftest import SignedIn
from tests.flow.house import free_port

pytestmark = pytest.mark.django_db


@pytest.fixture
def viewer(signed_in: SignedIn) -> Client:
    return signed_in(Role.VIEWER)


class Prometheus(BaseHTTPRequestHandler):
    """Answers every range with one line, and remembers what it was asked."""

    asked: list[dict[str, list[str]]] = []
    status = 200

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"])).decode()
        self.asked.append(parse_qs(body))
        end = float(self.asked[-1]["end"][0])
        result = [{"metric": {"outcome": "finished", "revision": "r1"}, "values": [[end, "2.5"]]}]
        answer = json.dumps(
            {"status": "success", "data": {"resultType": "matrix", "result": result}}
        ).encode()
        self.send_response(self.status)
        self.send_header("location", "http://127.0.0.1:1/")
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def prometheus(settings: Any) -> Iterator[type[Prometheus]]:
    Prometheus.asked, Prometheus.status = [], 200
    with ThreadingHTTPServer(("127.0.0.1", 0), Prometheus) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings.PROMETHEUS_URL = f"http://reader:s3cret@127.0.0.1:{server.server_port}"
        yield Prometheus
        server.shutdown()


def test_without_prometheus_or_grafana_own_series_answer(viewer: Client) -> None:
    page = viewer.get("/panels/").content.decode()
    assert all(f'data-panel="{panel_id}"' in page for panel_id in PANELS)
    assert "<iframe" not in page
    answer = viewer.get("/panels/series?panel=requests&panel=sockets").json()
    assert answer["source"] == "own" and answer["notice"] == ""
    assert [one["id"] for one in answer["panels"]] == ["requests", "sockets"]


def test_nothing_is_framed_unless_grafana_is_configured(viewer: Client) -> None:
    assert "frame-src" not in viewer.get("/panels/").headers["content-security-policy"]
    assert viewer.get("/grafana/jwks.json").status_code == 404
    assert viewer.get("/panels/frames").json() == {"frames": {}, "seconds": 0}


def test_the_management_api_tells_the_same(viewer: Client) -> None:
    listed = viewer.get("/api/v1/panels").json()["data"]
    assert [one["id"] for one in listed] == list(PANELS)
    one = viewer.get("/api/v1/panels/sockets?range=15m").json()
    assert (one["id"], one["answered_by"], one["fault"]) == ("sockets", "own", "")
    assert viewer.get("/api/v1/panels/sockets?range=9y").status_code == 400
    assert viewer.get("/api/v1/panels/nothing").status_code == 404


def test_strangers_get_neither_figures_nor_tokens(client: Client, settings: Any) -> None:
    settings.GRAFANA_URL = "http://grafana.example:3000"
    for path in ("/panels/", "/panels/series?panel=requests", "/panels/frames"):
        assert client.get(path).status_code == 302, path


def test_prometheus_is_asked_our_expressions_only(viewer: Client, prometheus: type[Prometheus]) -> None:
    url = "/panels/series?panel=requests&panel=nothing&range=6h&split=on&query=up&panel=up{}"
    answer = viewer.get(url).json()
    assert answer["source"] == "prometheus"
    assert answer["panels"][0]["series"][0]["name"] == "finished r1"
    (asked,) = prometheus.asked
    assert asked["query"] == ["sum by (outcome, revision) (rate(pilothouse_requests_total[195s]))"]
    assert float(asked["end"][0]) - float(asked["start"][0]) == pytest.approx(6 * 3600, abs=360)


def test_a_range_or_model_that_is_not_offered_counts_as_left_out(
    viewer: Client, prometheus: type[Prometheus]
) -> None:
    viewer.get("/panels/series", {"panel": "requests", "range": "9y", "model": 'm"} or up'})
    (asked,) = prometheus.asked
    assert asked["query"] == ["sum by (outcome) (rate(pilothouse_requests_total[60s]))"]


@pytest.mark.parametrize("status", [302, 401, 500])
def test_a_prometheus_that_does_not_answer_is_said_and_own_series_follow(
    viewer: Client, prometheus: type[Prometheus], status: int
) -> None:
    prometheus.status = status
    answer = viewer.get("/panels/series?panel=sockets").json()
    assert answer["source"] == "own"
    assert str(status) in answer["notice"] and "127.0.0.1" in answer["notice"]
    assert "s3cret" not in answer["notice"] + viewer.get("/panels/").content.decode()
    viewer.get("/panels/series?panel=sockets")
    assert len(prometheus.asked) == 1  # not asked again by each refresh


def test_a_grafana_that_is_down_is_said_and_panels_are_drawn_here(
    viewer: Client, settings: Any, tmp_path: Path
) -> None:
    settings.GRAFANA_URL = settings.GRAFANA_INTERNAL_URL = f"http://127.0.0.1:{free_port()}"
    settings.DATA_DIR = tmp_path
    page = viewer.get("/panels/").content.decode()
    assert "Grafana cannot be reached" in page and settings.GRAFANA_URL in page
    assert 'data-panel="requests"' in page and "<iframe" not in page


def test_a_grafana_on_our_own_origin_is_not_framed(viewer: Client, settings: Any, tmp_path: Path) -> None:
    settings.GRAFANA_URL = settings.GRAFANA_INTERNAL_URL = "http://testserver/grafana"
    settings.DATA_DIR = tmp_path
    page = viewer.get("/panels/").content.decode()
    assert "on an origin of its own" in page and "<iframe" not in page


def test_frames_carry_a_viewers_token_for_five_minutes(viewer: Client, settings: Any, tmp_path: Path) -> None:
    settings.GRAFANA_URL, settings.DATA_DIR = "https://grafana.example/sub", tmp_path
    answer = viewer.get("/panels/frames?theme=dark&range=6h")
    assert "no-store" in answer.headers["cache-control"]
    told = answer.json()
    assert set(told["frames"]) == set(PANELS) and told["seconds"] == 240
    url, _, query = told["frames"]["requests"].partition("?")
    assert url == "https://grafana.example/sub/d-solo/pilothouse-requests/pilothouse-requests"
    fields = {name: values[0] for name, values in parse_qs(query).items()}
    assert (fields["theme"], fields["from"], fields["panelId"]) == ("dark", "now-6h", "1")
    (public,) = viewer.get("/grafana/jwks.json").json()["keys"]
    claims = jwt.decode(
        fields["auth_token"], jwt.PyJWK(public), algorithms=["ES256"], audience=AUDIENCE, issuer=ISSUER
    )
    assert (claims["sub"], claims["role"]) == ("the-viewer", "Viewer")
    assert claims["exp"] - claims["iat"] == 300


def test_the_key_is_made_once_and_is_private(tmp_path: Path) -> None:
    first = key_set(tmp_path)
    assert stat.S_IMODE(os.stat(tmp_path / FILE).st_mode) == 0o600
    assert key_set(tmp_path) == first
    assert not {"d", "p", "q"} & set(first["keys"][0])
    publish(tmp_path)
    assert json.loads((tmp_path / "grafana/jwks.json").read_text()) == first
    assert jwt.get_unverified_header(token(tmp_path, username="dana"))["kid"] == first["keys"][0]["kid"]


class Answered:
    def __init__(self, status: int, **headers: str) -> None:
        self.status_code = status
        self.is_redirect = status == 302
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}


@pytest.mark.parametrize(
    ("answered", "state"),
    [
        (Answered(200), State.OK),
        (Answered(302, location="/login"), State.REFUSES_TOKEN),
        (Answered(401), State.REFUSES_TOKEN),
        (Answered(404), State.NO_DASHBOARD),
        (Answered(502), State.UNREACHABLE),
        (Answered(200, x_frame_options="deny"), State.REFUSES_FRAME),
        (Answered(200, content_security_policy="frame-ancestors 'none'"), State.REFUSES_FRAME),
        (Answered(200, content_security_policy="img-src *; frame-ancestors http://here"), State.OK),
    ],
)
def test_what_a_browser_would_make_of_a_frame_is_told_beforehand(answered: Any, state: State) -> None:
    assert framed(answered, "http://here").state is state
