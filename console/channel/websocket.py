"""A WebSocket within bounds: frames at a rate, messages of so many fragments, and nothing read from a client
that does not read, or faster than the application takes it.
"""

from __future__ import annotations

import asyncio
from typing import Any

from daphne.ws_protocol import WebSocketFactory, WebSocketProtocol

from console.channel.arrivals import Arrivals
from console.channel.backpressure import WriteGate
from console.channel.frames import FrameBudget
from console.channel.limits import Limits
from console.channel.stall import StallWatch

FRAMES_AT_ONCE = 2  # as many as come in so many seconds
MAX_FRAGMENTS = 256  # of one message
TOO_MUCH_WORK = 1008  # the standard's code for what a server's policy does not take
FIRST_CONTROL_OPCODE = 8


class BoundedSocket(WebSocketProtocol):  # type: ignore[misc]  # Daphne has no types
    """Autobahn's, which works through whatever has come in one turn of the loop and answers pings unread."""

    limits: Limits
    application_queue: Arrivals

    def connectionMade(self) -> None:
        self.transport.unregisterProducer()  # the HTTP channel's, from before the upgrade
        loop = asyncio.get_running_loop()
        self._clock = loop.time
        self._budget = FrameBudget(
            per_second=self.limits.frames_per_second,
            at_once=FRAMES_AT_ONCE * self.limits.frames_per_second,
            now=loop.time(),
        )
        self._is_paused = False
        self._is_greeted = False
        self._num_fragments = 0
        self._timer: asyncio.TimerHandle | None = None
        stall = StallWatch(
            self.transport, seconds=self.limits.stall_seconds, cut=self.transport.abortConnection
        )
        self.gate = WriteGate(self.transport, stall=stall, when_open=self._go_on)
        super().connectionMade()

    def connectionLost(self, reason: Any) -> None:
        self.gate.close()
        if self._timer is not None:
            self._timer.cancel()
        self.limits.connections.leave(self.transport)
        super().connectionLost(reason)

    def dataReceived(self, data: bytes) -> None:
        if self.state == self.STATE_CONNECTING and self._is_greeted:
            self._pause()  # no frame before the handshake is answered
        super().dataReceived(data)

    def processHandshake(self) -> None:
        """Once: the head is here as a whole, and what follows it waits."""
        if not self._is_greeted:
            self._is_greeted = True
            super().processHandshake()

    def onOpen(self) -> None:
        super().onOpen()
        self.application_queue.when_taken = self._go_on
        self._resume()

    def processData(self) -> bool:
        """Autobahn's next step with what has come; False: it comes to us again when there is more."""
        if self.current_frame is None and self.data and not self._may_begin_frame():
            return False
        return bool(super().processData())

    def onFrameBegin(self) -> None:
        self._budget.take(self._clock())
        if self.current_frame.opcode < FIRST_CONTROL_OPCODE:
            self._num_fragments = self._num_fragments + 1 if self.inside_message else 1
            if self._num_fragments > MAX_FRAGMENTS and not self.failedByMe:
                self._fail_connection(TOO_MUCH_WORK, "too many fragments in one message")
        super().onFrameBegin()

    def _may_begin_frame(self) -> bool:
        """True where another frame may be handled now; until then nothing is read."""
        if not self.gate.is_open() or self._has_full_queue():
            self._pause()
            return False
        seconds = self._budget.seconds_until_next(self._clock())
        if seconds and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._ring)
        if seconds:
            self._pause()
        return not seconds

    def _has_full_queue(self) -> bool:
        return self.state == self.STATE_OPEN and self.application_queue.is_full

    def _ring(self) -> None:
        self._timer = None
        self._go_on()

    def _go_on(self) -> None:
        """Something that held us back is over."""
        if self._is_paused and self.state in (self.STATE_OPEN, self.STATE_CLOSING):
            self._resume()
            self.consumeData()

    def _pause(self) -> None:
        self._is_paused = True
        self.transport.pauseProducing()

    def _resume(self) -> None:
        self._is_paused = False
        self.transport.resumeProducing()


class BoundedSocketFactory(WebSocketFactory):  # type: ignore[misc]  # Daphne has no types
    """Makes sockets within a server's limits."""

    protocol = BoundedSocket

    def __init__(self, serving: Any, limits: Limits, **options: Any) -> None:
        super().__init__(serving, **options)
        self._limits = limits

    def buildProtocol(self, address: Any) -> BoundedSocket:
        socket: BoundedSocket = super().buildProtocol(address)
        socket.limits = self._limits
        return socket
