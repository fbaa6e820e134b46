"""A stand-in for Grafana: it answers like one, checks tokens by the console's key set, and can misbehave.

It is no Grafana and draws nothing. It shows what a browser and the console make of the answers of one."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt


class Mood(Enum):
    WELL = "well"
    REFUSES_FRAMES = "refuses frames"
    LEADS_TO_LOGIN = "leads to login"
    IS_DOWN = "is down"


@dataclass
class Grafana:
    """What it was asked, and by whom."""

    port: int
    console_url: str = ""
    mood: Mood = Mood.WELL
    keys: jwt.PyJWKSet | None = None
    shown: list[dict[str, str]] = field(default_factory=list)  # fields of panels that were let in
    referrers: set[str] = field(default_factory=set)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def viewer(self, token: str) -> str | None:
        """As `[auth.jwt]` of docker/grafana/grafana.ini would have it; None: 401."""
        if self.keys is None:  # Grafana remembers them, too
            self.keys = jwt.PyJWKSet.from_dict(httpx.get(f"{self.console_url}/grafana/jwks.json").json())
        try:
            key = self.keys[jwt.get_unverified_header(token)["kid"]]
            claims = jwt.decode(
                token, key, algorithms=["ES256"], audience="grafana", issuer="pilothouse",
                options={"require": ["exp", "sub"]},
            )  # fmt: skip
        except (jwt.InvalidTokenError, KeyError):
            return None
        return str(claims["sub"]) if claims["role"] == "Viewer" else None


@contextmanager
def stand_in(port: int) -> Iterator[Grafana]:
    grafana = Grafana(port)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            fields = {name: values[0] for name, values in parse_qs(parts.query).items()}
            if grafana.mood is Mood.IS_DOWN:
                self.answer(503, "down")
            elif parts.path == "/api/health":
                self.answer(
                    200, json.dumps({"database": "ok", "version": "stand-in"}), kind="application/json"
                )
            elif parts.path.startswith("/d-solo/pilothouse-"):
                self.panel(fields)
            elif parts.path == "/login":
                self.answer(200, "sign in", **{"X-Frame-Options": "deny"})
            else:
                self.answer(404, "nothing here")

        def panel(self, fields: dict[str, str]) -> None:
            if grafana.mood is Mood.LEADS_TO_LOGIN:
                return self.answer(302, "", location="/login")
            viewer = grafana.viewer(fields.get("auth_token", ""))
            if viewer is None:
                return self.answer(401, "no valid token")
            headers = {"X-Frame-Options": "deny"} if grafana.mood is Mood.REFUSES_FRAMES else {}
            grafana.shown.append({**fields, "viewer": viewer, "agent": self.headers.get("user-agent", "")})
            grafana.referrers.add(self.headers.get("referer", ""))
            colours = "#111;color:#eee" if fields.get("theme") == "dark" else "#fff;color:#111"
            said = f"panel {fields.get('panelId')} for {viewer}"
            text = f"<title>panel</title><body style='background:{colours}'>{said}"
            return self.answer(200, text, **headers)

        def answer(self, status: int, text: str, *, kind: str = "text/html", **headers: str) -> None:
            content = text.encode()
            self.send_response(status)
            self.send_header("content-type", kind)
            self.send_header("content-length", str(len(content)))
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield grafana
        server.shutdown()
