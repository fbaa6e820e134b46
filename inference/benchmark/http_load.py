"""Closed-loop SSE load on an OpenAI-compatible server: each client has one request at a time.

Plain asyncio sockets, because a heavy client would take its CPU time from the server under test.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import random
import socket
import time
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

WORDS = (
    *("river", "stone", "light", "window", "garden", "paper", "signal", "quiet"),
    *("engine", "harbor", "copper", "morning", "ladder", "forest", "thread", "winter"),
)

TIMEOUT_SECONDS = 300.0  # of one request

Prompt = str | tuple[int, ...]  # words for the chat endpoint, or token ids for completions


class LoadError(Exception):
    """A request of the load was answered with something else than a stream."""


@dataclass(frozen=True, slots=True)
class Load:
    """A load: `num_requests` prompts of random words, greedy, ended by length or end-of-sequence."""

    num_streams: int
    num_requests: int
    num_prompt_words: int = 48
    max_tokens: int = 64
    seed: int = 0
    timeout_seconds: float = TIMEOUT_SECONDS

    def prompts(self) -> list[str]:
        """The same list for every server that is compared."""
        source = random.Random(self.seed)  # noqa: S311 - no secret
        return [
            " ".join(source.choice(WORDS) for _ in range(self.num_prompt_words))
            for _ in range(self.num_requests)
        ]


@dataclass(slots=True)
class Outcome:
    """The measurements of one request."""

    num_tokens: int = 0
    num_chunks: int = 0
    first_token_seconds: float = 0.0
    total_seconds: float = 0.0
    gaps: list[float] = field(default_factory=list)
    error: str = ""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """The server under load. Loopback only: any other address raises ValueError."""

    url: str  # http://127.0.0.1:8000/v1
    model: str
    key: str = "none"

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        host = parts.hostname or ""
        addresses = {info[4][0] for info in socket.getaddrinfo(host, parts.port or 80)}
        if parts.scheme != "http" or not all(
            ipaddress.ip_address(address).is_loopback for address in addresses
        ):
            raise ValueError(f"the load may only go to http:// on this machine, not {self.url}")

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return parts.hostname or "", parts.port or 80

    def request(self, prompt: Prompt, max_tokens: int) -> bytes:
        """A whole HTTP request, streamed, usage in the last chunk. Token ids get exactly `max_tokens`."""
        route, asked = "chat/completions", dict[str, object]()
        if isinstance(prompt, str):
            asked["messages"] = [{"role": "user", "content": prompt}]
        else:
            route = "completions"
            asked |= {"prompt": list(prompt), "ignore_eos": True}
        common = {
            "model": self.model,
            "max_tokens": max_tokens,
            "temperature": 0,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        body = json.dumps(common | asked).encode()
        host, port = self.address
        head = (
            f"POST {urlsplit(self.url).path}/{route} HTTP/1.1\r\nHost: {host}:{port}\r\n"
            f"Authorization: Bearer {self.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        return head.encode() + body


async def events(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, object]]:
    """The JSON objects of an SSE answer, until `[DONE]`."""
    status, is_chunked = await _read_head(reader)
    if status != 200:
        raise LoadError(f"status {status}: {(await reader.read(300)).decode(errors='replace')}")
    pending = b""
    async for piece in _body(reader, is_chunked=is_chunked):
        *lines, pending = (pending + piece).split(b"\n")
        for line in lines:
            content = line.removeprefix(b"data:").strip()
            if content == b"[DONE]":
                return
            if line.startswith(b"data:"):
                yield json.loads(content)


async def _read_head(reader: asyncio.StreamReader) -> tuple[int, bool]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    return int(head.split(" ", 2)[1]), "transfer-encoding: chunked" in head


async def _body(reader: asyncio.StreamReader, *, is_chunked: bool) -> AsyncIterator[bytes]:
    while not is_chunked:
        piece = await reader.read(65536)
        if not piece:
            return
        yield piece
    while num_bytes := int((await reader.readline()).split(b";")[0] or b"0", 16):
        yield await reader.readexactly(num_bytes)
        await reader.readline()


async def ask(
    endpoint: Endpoint, prompt: Prompt, *, max_tokens: int, timeout_seconds: float = TIMEOUT_SECONDS
) -> Outcome:
    """One request, from connecting to `[DONE]`."""
    outcome = Outcome()
    started = time.perf_counter()
    try:
        async with asyncio.timeout(timeout_seconds):
            reader, writer = await asyncio.open_connection(*endpoint.address)
            try:
                writer.write(endpoint.request(prompt, max_tokens))
                await _follow(reader, outcome, started)
            finally:
                writer.close()
    except (LoadError, OSError, EOFError, ValueError, TimeoutError) as error:
        outcome.error = f"{type(error).__name__}: {error}"
    outcome.total_seconds = time.perf_counter() - started
    return outcome


async def _follow(reader: asyncio.StreamReader, outcome: Outcome, started: float) -> None:
    last = 0.0
    async for event in events(reader):
        if isinstance(usage := event.get("usage"), dict):
            outcome.num_tokens = int(usage["completion_tokens"])
        if not _has_text(event):
            continue
        now = time.perf_counter()
        if outcome.num_chunks:
            outcome.gaps.append(now - last)
        else:
            outcome.first_token_seconds = now - started
        outcome.num_chunks += 1
        last = now
    if not outcome.num_tokens:  # a server that sends no usage: one chunk is one token
        outcome.num_tokens = outcome.num_chunks


def _has_text(event: dict[str, object]) -> bool:
    if "error" in event:
        raise LoadError(str(event["error"])[:300])
    choices = event.get("choices")
    if not isinstance(choices, list) or not choices:
        return False
    return bool(choices[0].get("text") or (choices[0].get("delta") or {}).get("content"))


def percentiles(seconds: list[float]) -> dict[str, float]:
    """p50, p95 and p99 in milliseconds; empty without observations."""
    ordered = sorted(seconds)
    return {
        f"p{percent}": round(1000 * ordered[min(len(ordered) - 1, len(ordered) * percent // 100)], 1)
        for percent in (50, 95, 99)
        if ordered
    }


async def closed_loop(
    endpoint: Endpoint, requests: Sequence[tuple[Prompt, int]], *, num_streams: int, timeout_seconds: float
) -> list[Outcome]:
    """Every request (prompt, tokens at most), as many at a time as there are streams."""
    waiting = iter(requests)
    outcomes: list[Outcome] = []

    async def client() -> None:
        for prompt, max_tokens in waiting:  # one iterator for all: each takes the next when it is free
            outcomes.append(
                await ask(endpoint, prompt, max_tokens=max_tokens, timeout_seconds=timeout_seconds)
            )

    await asyncio.gather(*(client() for _ in range(num_streams)))
    return outcomes


def summary(outcomes: Sequence[Outcome], *, num_streams: int, seconds: float) -> dict[str, object]:
    """The figures of one measurement."""
    good = [outcome for outcome in outcomes if not outcome.error]
    num_tokens = sum(outcome.num_tokens for outcome in good)
    return {
        "streams": num_streams,
        "requests": len(good),
        "errors": [outcome.error for outcome in outcomes if outcome.error],
        "output_tokens": num_tokens,
        "seconds": round(seconds, 3),
        "tokens_per_second": round(num_tokens / seconds, 2),
        "first_token_ms": percentiles([one.first_token_seconds for one in good if one.num_chunks]),
        "between_chunks_ms": percentiles([gap for outcome in good for gap in outcome.gaps]),
    }


async def drive(endpoint: Endpoint, load: Load) -> dict[str, object]:
    """Run the load and summarise it."""
    started = time.perf_counter()
    outcomes = await closed_loop(
        endpoint,
        [(prompt, load.max_tokens) for prompt in load.prompts()],
        num_streams=load.num_streams,
        timeout_seconds=load.timeout_seconds,
    )
    seconds = time.perf_counter() - started
    return summary(outcomes, num_streams=load.num_streams, seconds=seconds)
