"""What an API key looks like: `ph_<public id>_<secret><checksum>`. Pure: no database, no settings.

The checksum is no secret; it lets a typo, a truncated paste or a scanner's guess be told without a query.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from dataclasses import dataclass, field

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
NUM_ID_CHARS = 12
NUM_SECRET_CHARS = 33  # 33 * log2(62) = 196 bits
NUM_CHECKSUM_CHARS = 6  # 62**6 > 2**32

_PATTERN = re.compile(
    rf"(ph_([0-9A-Za-z]{{{NUM_ID_CHARS}}})_[0-9A-Za-z]{{{NUM_SECRET_CHARS}}})([0-9A-Za-z]{{{NUM_CHECKSUM_CHARS}}})"
)


@dataclass(frozen=True, slots=True)
class Token:
    """A well-formed key. Its text stays out of reprs, and so out of logs and tracebacks."""

    public_id: str
    text: str = field(repr=False)

    def digest(self, *, pepper: str) -> str:
        """What the database keeps: without the pepper, which it does not hold, a copy of it opens nothing."""
        return hmac.new(pepper.encode(), self.text.encode(), hashlib.sha256).hexdigest()


def generate() -> Token:
    """A new key from the operating system's randomness."""
    body = f"ph_{_random(NUM_ID_CHARS)}_{_random(NUM_SECRET_CHARS)}"
    return Token(body.split("_")[1], body + checksum(body))


def parse(text: str) -> Token | None:
    """The key that a text spells, if it is one: shape and checksum only."""
    match = _PATTERN.fullmatch(text)
    if match is None or checksum(match[1]) != match[3]:
        return None
    return Token(match[2], text)


def checksum(body: str) -> str:
    """CRC-32 in base 62, of fixed length."""
    value = zlib.crc32(body.encode())
    digits = []
    for _ in range(NUM_CHECKSUM_CHARS):
        value, digit = divmod(value, len(ALPHABET))
        digits.append(ALPHABET[digit])
    return "".join(reversed(digits))


def _random(length: int) -> str:
    return "".join(secrets.choice(ALPHABET) for _ in range(length))
