"""Asking Prometheus for a range: our own expressions only, briefly, and never to where a redirect leads."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Sequence
from functools import lru_cache
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import httpx

CONNECT_SECONDS, READ_SECONDS = 2.0, 8.0
MAX_BYTES = 8 * 2**20
NUM_AT_ONCE = 6

Points = dict[int, float]  # unix time -> value


class Unreachable(Exception):
    """Prometheus did not answer as it should; the message says what came instead."""


class Prometheus:
    """A connection for the length of one page's refresh."""

    def __init__(self, url: str) -> None:
        self._url = f"{url.rstrip('/')}/api/v1/query_range"
        timeout = httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS)
        self._client = httpx.AsyncClient(
            timeout=timeout, follow_redirects=False, trust_env=False, verify=certificates()
        )
        self._turns = asyncio.Semaphore(NUM_AT_ONCE)

    async def __aenter__(self) -> Prometheus:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def range(
        self, expression: str, *, start: float, end: float, step: float
    ) -> Sequence[tuple[dict[str, str], Points]]:
        """Labels and points of each series."""
        asked = {"query": expression, "start": str(start), "end": str(end), "step": str(step)}
        try:
            async with self._turns, self._client.stream("POST", self._url, data=asked) as response:
                if response.status_code != httpx.codes.OK:
                    raise Unreachable(f"it answered with status {response.status_code}")
                answer = json.loads(await limited(response))
            series = answer["data"]["result"]
            return [(one["metric"], points_of(one["values"])) for one in series]
        except httpx.HTTPError as error:
            raise Unreachable(why(error)) from error
        except (ValueError, KeyError, TypeError) as error:
            raise Unreachable("what it answered is not a Prometheus range") from error


def points_of(values: list[list[Any]]) -> Points:
    return {round(float(at)): float(value) for at, value in values}


async def limited(response: httpx.Response) -> bytes:
    body = bytearray()
    async for chunk in response.aiter_bytes():
        body += chunk
        if len(body) > MAX_BYTES:
            raise Unreachable("its answer is too large")
    return bytes(body)


def why(error: httpx.HTTPError) -> str:
    """In words, and without the URL, which may hold a password."""
    match error:
        case httpx.ConnectTimeout():
            return "no connection in time"
        case httpx.TimeoutException():
            return "no answer in time"
        case httpx.ConnectError():
            return "the connection was refused or its name is unknown"
        case _:
            return "the connection broke"


def shown_url(url: str) -> str:
    """An address for people: without name and password."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


@lru_cache(maxsize=1)
def certificates() -> ssl.SSLContext:
    """Read once: it costs tens of milliseconds."""
    return ssl.create_default_context()
