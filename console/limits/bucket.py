"""A rate as a bucket: requests fill it, the clock empties it. Pure arithmetic on whole numbers.

A level counts in 60,000ths of a request or token, so that a limit of N per minute drains exactly N of them
each millisecond: nothing is ever rounded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

UNIT = 60_000  # one request, or one token, in a level
LONG_MS = 3_600_000  # after an hour every bucket counts as drained; bounds the arithmetic


@dataclass(frozen=True, slots=True)
class Bucket:
    """One rate of a key at a moment."""

    unit: Literal["requests", "tokens"]
    limit: int  # per minute
    level: int  # in UNITs

    @property
    def num_remaining(self) -> int:
        return max(0, self.limit - -(-self.level // UNIT))

    def cost(self, tokens: int) -> int:
        """The share that a request of so many tokens takes."""
        return 1 if self.unit == "requests" else tokens

    @property
    def used_percent(self) -> float:
        return min(100.0, round(self.level / self.limit / UNIT * 100, 1))

    @property
    def reset_seconds(self) -> float:
        """Until it is empty, if nothing more comes."""
        return -(-self.level // self.limit) / 1000

    def seconds_until_room_for(self, cost: int) -> float:
        """Until `cost` fits, if nothing else comes: to the millisecond, never too early."""
        excess = self.level + (cost - self.limit) * UNIT
        return max(0, -(-excess // self.limit)) / 1000


def duration(seconds: float) -> str:
    """As OpenAI's headers write it: 120ms, 1.5s, 6m0s."""
    if seconds < 1:
        return f"{round(seconds * 1000)}ms"
    minutes, rest = divmod(round(seconds, 3), 60)
    return f"{int(minutes)}m{rest:g}s" if minutes else f"{rest:g}s"


def rate_headers(buckets: Iterable[Bucket]) -> dict[str, str]:
    """The x-ratelimit-* headers, under OpenAI's names; none for a rate that is not limited."""
    headers = {}
    for one in buckets:
        headers[f"x-ratelimit-limit-{one.unit}"] = str(one.limit)
        headers[f"x-ratelimit-remaining-{one.unit}"] = str(one.num_remaining)
        headers[f"x-ratelimit-reset-{one.unit}"] = duration(one.reset_seconds)
    return headers
