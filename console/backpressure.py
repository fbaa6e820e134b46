"""Makes Daphne's `send` wait for slow readers. Daphne writes into Twisted's unbounded buffer and returns at
once, so nothing upstream would ever learn that a reader lags, and its bytes would pile up here.
"""

from __future__ import annotations

import asyncio
from typing import Any

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

STALL_SECONDS = 30.0  # a reader that takes nothing for this long has left


class ReaderStalled(Exception):
    """The connection took no byte for too long."""


@implementer(IPushProducer)
class WriteGate:
    """Open while a connection can take more: Twisted tells its producer when the buffer is full or empty."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._is_open = asyncio.Event()
        self._is_open.set()
        consumer.registerProducer(self, True)

    async def passed(self, seconds: float) -> None:
        """Wait until more may be written. Raises `ReaderStalled`."""
        if self._is_open.is_set():
            return
        try:
            async with asyncio.timeout(seconds):
                await self._is_open.wait()
        except TimeoutError:
            raise ReaderStalled from None

    def close(self) -> None:
        """Nothing more will be written through this gate."""
        self._consumer.unregisterProducer()
        self._is_open.set()

    def pauseProducing(self) -> None:  # Twisted's names
        self._is_open.clear()

    def resumeProducing(self) -> None:
        self._is_open.set()

    def stopProducing(self) -> None:
        """The connection is gone: who waits shall find out by writing."""
        self._is_open.set()
