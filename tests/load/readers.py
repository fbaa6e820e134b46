"""Many SSE streams read by one process at little cost: it takes what comes, notes when, parses at the end.

A JSON order comes on stdin; the line `ready` goes out once all are connected, a line on stdin starts them,
and one JSON line tells what came.
"""

from __future__ import annotations

import json
import random
import select
import socket
import sys
import time
from dataclasses import dataclass, field
from typing import Any

RECEIVE_BYTES = 65536


@dataclass
class Reading:
    """One stream: what came, and when (time.monotonic())."""

    connection: socket.socket
    request: bytes
    asked_at: float = 0.0
    pieces: list[bytes] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


def read_all(order: dict[str, Any]) -> None:
    readings = [connect(order, number) for number in range(order["num_streams"])]
    print("ready", flush=True)
    sys.stdin.readline()
    for reading in readings:
        reading.asked_at = time.monotonic()
        reading.connection.sendall(reading.request)
    drain(readings)
    print(json.dumps([told(reading) for reading in readings]), flush=True)


def connect(order: dict[str, Any], number: int) -> Reading:
    route, asked = asked_for(order, number)
    body = {
        "model": order["model"],
        **asked,
        "max_tokens": order["max_tokens"],
        "ignore_eos": True,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    content = json.dumps(body).encode()
    key = order["keys"][number % len(order["keys"])]
    head = (
        f"POST /v1/{route} HTTP/1.1\r\nHost: 127.0.0.1:{order['port']}\r\n"
        f"Authorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(content)}\r\nConnection: close\r\n\r\n"
    )
    connection = socket.create_connection(("127.0.0.1", order["port"]))
    return Reading(connection, head.encode() + content)


def asked_for(order: dict[str, Any], number: int) -> tuple[str, dict[str, Any]]:
    """The endpoint, and a prompt that no other stream has: of so many token ids, or of a few words."""
    if num_tokens := order["num_prompt_tokens"]:
        source = random.Random(f"{order['first'] + number}")
        return "completions", {"prompt": [source.randrange(order["num_ids"]) for _ in range(num_tokens)]}
    content = f"Number {number}: {order['prompt']}"
    return "chat/completions", {"messages": [{"role": "user", "content": content}]}


def drain(readings: list[Reading]) -> None:
    poll = select.epoll()
    by_number = {reading.connection.fileno(): reading for reading in readings}
    for number in by_number:
        poll.register(number, select.EPOLLIN)
    while by_number:
        for number, _ in poll.poll():
            reading = by_number[number]
            piece = reading.connection.recv(RECEIVE_BYTES)
            reading.times.append(time.monotonic())
            reading.pieces.append(piece)
            if not piece:
                poll.unregister(number)
                reading.connection.close()
                del by_number[number]


def told(reading: Reading) -> dict[str, Any]:
    """What one stream brought. `content_at`: for each event with text, when its bytes came."""
    stream, ends = b"".join(reading.pieces), []
    total = 0
    for piece in reading.pieces:
        total += len(piece)
        ends.append(total)
    head, _, _ = stream.partition(b"\r\n\r\n")
    events, positions = events_of(stream, start=len(head) + 4)
    content_at: list[float] = []
    text, usage, position = "", 0, 0
    for event, end in zip(events, positions, strict=True):
        while ends[position] < end:
            position += 1
        if event.get("usage"):
            usage = event["usage"]["completion_tokens"]
        for choice in event.get("choices", []):
            if content := choice.get("text") or choice.get("delta", {}).get("content"):
                content_at.append(reading.times[position])
                text += content
    return {
        "status": int(head.split(b" ", 2)[1]) if head else 0,
        "asked_at": reading.asked_at,
        "first_byte_at": reading.times[0],
        "ended_at": reading.times[-1],
        "content_at": content_at,
        "num_words": text.count(" w"),
        "num_tokens": usage,
        "is_done": stream.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n"),
        "num_reads": len(reading.pieces),
    }


def events_of(stream: bytes, *, start: int) -> tuple[list[dict[str, Any]], list[int]]:
    """The JSON events of a chunked body, and the position in the stream at which each was whole."""
    events: list[dict[str, Any]] = []
    positions: list[int] = []
    body = b""
    while size := int(stream[start : (line := stream.find(b"\r\n", start))] or b"0", 16):
        body += stream[line + 2 : line + 2 + size]
        start = line + 2 + size + 2
        *frames, body = body.split(b"\n\n")
        for frame in frames:
            if frame.startswith(b"data: {"):
                events.append(json.loads(frame[6:]))
                positions.append(start)
    return events, positions


if __name__ == "__main__":
    read_all(json.loads(sys.stdin.readline()))
