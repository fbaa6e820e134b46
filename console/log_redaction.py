"""The second net under secrets in logs: what looks like one of our keys is cut out; one record is one line.

The first net is that no code logs keys, headers or prompts.
"""

from __future__ import annotations

import logging
import re

KEY = re.compile(r"ph_([0-9A-Za-z]{12})_[0-9A-Za-z]+")
CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x09), *range(0x0B, 0x20), 0x7F, *range(0x80, 0xA0))}


def redact(text: str) -> str:
    return KEY.sub(r"ph_\1_[secret]", text)


class OneLine(logging.Formatter):
    """Formats a record so that nothing in its message can begin a line of its own; tracebacks keep theirs."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record).replace("\n", "\\n").translate(CONTROL)

    def format(self, record: logging.LogRecord) -> str:
        return redact(super().format(record))
