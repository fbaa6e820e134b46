"""Whether Grafana can be embedded now: it answers, takes our token, and lets itself be framed.

Asked by the server with short timeouts and remembered for a moment, so that a page never hangs on it."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from enum import Enum

import httpx

from monitoring.panels.range_query import certificates, why

CONNECT_SECONDS, READ_SECONDS, TOTAL_SECONDS = 1.5, 2.5, 4.0
KEPT_SECONDS = 5.0


class State(Enum):
    OK = "ok"
    UNREACHABLE = "unreachable"
    NOT_GRAFANA = "not_grafana"
    REFUSES_TOKEN = "refuses_token"  # noqa: S105 - a state
    REFUSES_FRAME = "refuses_frame"
    NO_DASHBOARD = "no_dashboard"


@dataclass(frozen=True, slots=True)
class Reach:
    state: State
    fault: str = ""  # what came instead, for people


class Prober:
    """Asks a Grafana and remembers the answer for a moment. `url` is where the server finds it."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._kept: Reach | None = None
        self._kept_until = 0.0

    async def reach(self, *, path: str, token: str, console_origin: str) -> Reach:
        """`path` is that of a panel, as a browser will ask for it."""
        now = time.monotonic()
        if self._kept is None or now >= self._kept_until:
            self._kept = await self._ask(path, token, console_origin)
            self._kept_until = time.monotonic() + KEPT_SECONDS
        return self._kept

    async def _ask(self, path: str, token: str, console_origin: str) -> Reach:
        timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
        try:
            async with (
                asyncio.timeout(TOTAL_SECONDS),
                httpx.AsyncClient(
                    timeout=timeout, follow_redirects=False, trust_env=False, verify=certificates()
                ) as client,
            ):
                health = await client.get(f"{self._url}/api/health")
                if health.is_server_error:
                    return Reach(State.UNREACHABLE, f"/api/health: {health.status_code}")
                if not is_grafana(health):
                    return Reach(State.NOT_GRAFANA, f"/api/health: {health.status_code}")
                panel = await client.get(f"{self._url}{path}", params={"auth_token": token})
                return framed(panel, console_origin)
        except httpx.HTTPError as error:
            return Reach(State.UNREACHABLE, why(error))
        except TimeoutError:
            return Reach(State.UNREACHABLE, f"no answer within {TOTAL_SECONDS:g} s")


def is_grafana(health: httpx.Response) -> bool:
    if health.status_code != httpx.codes.OK:
        return False
    try:
        return isinstance(told := health.json(), dict) and told.get("database") == "ok"
    except ValueError:
        return False


def framed(panel: httpx.Response, console_origin: str) -> Reach:
    """What a browser would make of this answer inside a frame."""
    status = panel.status_code
    if panel.is_redirect:
        return Reach(State.REFUSES_TOKEN, f"{status} {panel.headers.get('location', '').split('?')[0]}")
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return Reach(State.REFUSES_TOKEN, str(status))
    if status == httpx.codes.NOT_FOUND:
        return Reach(State.NO_DASHBOARD, str(status))
    if status != httpx.codes.OK:
        return Reach(State.UNREACHABLE, str(status))
    if option := panel.headers.get("x-frame-options"):
        return Reach(State.REFUSES_FRAME, f"X-Frame-Options: {option}")
    ancestors = frame_ancestors(panel.headers.get("content-security-policy", ""))
    if ancestors is not None and not {"*", console_origin} & set(ancestors):
        return Reach(State.REFUSES_FRAME, f"frame-ancestors {' '.join(ancestors)}")
    return Reach(State.OK)


def frame_ancestors(policy: str) -> list[str] | None:
    """None: the policy says nothing about frames."""
    for directive in policy.split(";"):
        name, *sources = directive.split()[:50] or [""]
        if name.lower() == "frame-ancestors":
            return sources
    return None
