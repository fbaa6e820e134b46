"""Backpressure of streams: bytes are written at once where they can be; `send` waits for slow readers. Daphne
writes into Twisted's unbounded buffer and returns at once, so nothing upstream would ever learn that a reader
lags, and its bytes would pile up here.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from console.channel.stall import StallWatch


def write_chunk(request: Any, data: bytes) -> None:
    """A chunk of a streamed body, by a Twisted request.

    Twisted's own way is to wait for the event loop to say that the socket can be written: that costs more
    than the writing, for every token. It is taken where bytes wait already, or the kernel takes no more.
    """
    if request.finished or request.channel is None or not data:
        return
    transport = request.channel.transport
    if not request.chunked or has_waiting_bytes(transport):
        request.write(data)
        return
    chunk = b"%x\r\n%b\r\n" % (len(data), data)
    request.sentLength += len(data)
    sent = transport.writeSomeData(chunk)
    if not isinstance(sent, int):
        sent = 0  # the connection is lost, which Twisted finds by its own means
    if sent < len(chunk):
        transport.write(chunk[sent:])


def has_waiting_bytes(transport: Any) -> bool:
    """True where bytes written now would overtake others, and where that cannot be known: over TLS, or
    on a connection that is being closed."""
    if getattr(transport, "TLS", True) or not transport.connected or transport.disconnecting:
        return True
    return bool(transport.dataBuffer or getattr(transport, "_tempDataBuffer", True))


@implementer(IPushProducer)
class WriteGate:
    """Open while a connection can take more: Twisted tells its producer when the buffer is full or empty."""

    def __init__(
        self,
        consumer: Any,
        *,
        is_open: bool = True,
        stall: StallWatch | None = None,
        when_open: Callable[[], None] = lambda: None,
    ) -> None:
        self._consumer = consumer
        self._stall = stall
        self._when_open = when_open
        self._is_open = asyncio.Event()
        if is_open:
            self._is_open.set()
        consumer.registerProducer(self, True)

    def is_open(self) -> bool:
        return self._is_open.is_set()

    async def passed(self) -> None:
        """Wait until more may be written, or the connection is gone."""
        await self._is_open.wait()

    def close(self) -> None:
        """Nothing more will be written through this gate."""
        self._consumer.unregisterProducer()
        self.stopProducing()

    def pauseProducing(self) -> None:  # Twisted's names
        self._is_open.clear()
        if self._stall is not None:
            self._stall.begin()

    def resumeProducing(self) -> None:
        self.stopProducing()
        self._when_open()

    def stopProducing(self) -> None:
        """The connection is gone: who waits shall find out by writing."""
        self._is_open.set()
        if self._stall is not None:
            self._stall.end()
