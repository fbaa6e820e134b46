"""The bounds that a server holds its connections to, as the settings give them."""

from __future__ import annotations

from dataclasses import dataclass, field

from console.addresses import Networks
from console.channel.connections import Connections
from console.channel.descriptors import raise_limit, room_for_connections
from console.environment import Environment

BUFFER_BYTES = 16 * 1024  # read at a time, and written before the application waits for its reader
KERNEL_BUFFER_BYTES = 64 * 1024  # each way, of a connection; Linux takes twice as much
MAX_HEADERS = 100
KEEP_ALIVE_SECONDS = 60.0
LINGER_SECONDS = 2.0  # in which the rest of what was refused is taken and dropped, so that the answer is read
LINGER_BYTES = 8 * 1024 * 1024
SMALL_BODY_BYTES = 64 * 1024  # smaller ones are not counted together
MAX_CHUNKS = 16 * 1024  # of one body


@dataclass(slots=True)
class Room:
    """Memory for all request bodies that have come, or are coming, together."""

    most_bytes: int
    num_bytes: int = 0

    def take(self, num_bytes: int) -> bool:
        """False: there is no room for so much."""
        if self.num_bytes + num_bytes > self.most_bytes:
            return False
        self.num_bytes += num_bytes
        return True

    def give_back(self, num_bytes: int) -> None:
        self.num_bytes -= num_bytes


@dataclass(frozen=True, slots=True)
class Limits:
    connections: Connections
    head_seconds: float = 20.0
    body_seconds: float = 60.0
    stall_seconds: float = 30.0
    frames_per_second: int = 64
    bodies: Room = field(default_factory=lambda: Room(256 * 1024 * 1024))


def limits_of(env: Environment) -> Limits:
    """The limits of a server that starts now. More files may be open after it."""
    most = room_for_connections(raise_limit(), wanted=env.max_connections)
    proxies = Networks(env.trusted_proxies)
    connections = Connections(
        most=most,
        most_per_address=min(env.connections_per_address, max(1, most // 2)),
        is_exempt=proxies.__contains__,
    )
    return Limits(
        connections=connections,
        head_seconds=env.request_head_seconds,
        body_seconds=env.request_body_seconds,
        stall_seconds=env.stall_seconds,
        frames_per_second=env.frames_per_second,
    )
