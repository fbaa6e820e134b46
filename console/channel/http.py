"""An HTTP/1.1 connection within bounds: deadlines for heads and bodies that no byte moves, sizes refused by
the head and by bytes counted, and an answer that says so.
"""

from __future__ import annotations

import socket
import uuid
from typing import Any

from daphne.http_protocol import HTTPFactory
from twisted.web.http import HTTPChannel

from console.channel.head import (
    BAD_HEAD,
    HEAD_TOO_LARGE,
    TOO_BUSY,
    TOO_SLOW,
    Refused,
    body_bound,
    too_large,
    why_refused,
)
from console.channel.limits import (
    BUFFER_BYTES,
    KEEP_ALIVE_SECONDS,
    KERNEL_BUFFER_BYTES,
    LINGER_BYTES,
    LINGER_SECONDS,
    MAX_CHUNKS,
    MAX_HEADERS,
    SMALL_BODY_BYTES,
    Limits,
)
from console.channel.request import BoundedRequest
from console.channel.stall import StallWatch
from monitoring.metrics import observe_refusal, observe_response


class BoundedChannel(HTTPChannel):  # type: ignore[misc]  # Twisted's own names are not typed
    """Twisted's, which waits for as long as bytes drip, and takes in whatever comes."""

    maxHeaders = MAX_HEADERS
    limits: Limits

    def __init__(self) -> None:
        super().__init__()
        self.bound = 0  # bytes that the body of the request under way may have
        self._refused: Refused | None = None
        self._num_dropped = 0
        self._num_body_bytes = 0
        self._num_chunks = 0
        self._num_taken = 0  # of `limits.bodies`
        self._is_between_requests = False

    # -- connections

    def connectionMade(self) -> None:
        super().connectionMade()
        self.transport.bufferSize = BUFFER_BYTES
        for buffer in (socket.SO_SNDBUF, socket.SO_RCVBUF):  # or the system lets each grow to megabytes
            self.transport.socket.setsockopt(socket.SOL_SOCKET, buffer, KERNEL_BUFFER_BYTES)
        self._stall = StallWatch(
            self.transport, seconds=self.limits.stall_seconds, cut=self.transport.abortConnection
        )
        self.setTimeout(self.limits.head_seconds)
        address = getattr(self.transport.getPeer(), "host", "")
        if not self.limits.connections.enter(self.transport, address, self.transport.abortConnection):
            self.transport.abortConnection()

    def connectionLost(self, reason: Any) -> None:
        self._stall.end()
        self._forget_body()
        self.limits.connections.leave(self.transport)
        super().connectionLost(reason)

    # -- time

    def resetTimeout(self) -> None:
        """Bytes move no deadline."""

    def timeoutConnection(self) -> None:
        if self._refused is not None:
            self.transport.abortConnection()
        elif self.requests:  # its head has begun
            self.refuse(TOO_SLOW)
        else:
            super().timeoutConnection()

    # -- bytes in

    def dataReceived(self, data: bytes) -> None:
        if self._refused is not None:
            self._drop(data)
            return
        if self._is_between_requests:
            self._is_between_requests = False
            self.setTimeout(self.limits.head_seconds)
        super().dataReceived(data)

    def lineReceived(self, line: bytes) -> None:
        if self._refused is None:
            super().lineReceived(line)

    def lineLengthExceeded(self, line: bytes) -> None:
        self.refuse(HEAD_TOO_LARGE)

    def rawDataReceived(self, data: bytes) -> None:
        if self._refused is None:
            super().rawDataReceived(data)
        else:
            self._drop(data)

    def allHeadersReceived(self) -> None:
        if self._refused is not None:
            return
        request = self.requests[-1]
        request.requestHeaders.removeHeader(b"daphne-root-path")  # Daphne would take it from anybody
        refused = self._why_refused(request)
        if refused is not None:
            self.refuse(refused)
            return
        if self.length != 0:
            self.setTimeout(self.limits.body_seconds)
        super().allHeadersReceived()

    def take(self, data: bytes) -> bool:
        """True where a piece of the body may be kept."""
        if self._refused is not None:
            return False
        self._num_body_bytes += len(data)
        self._num_chunks += 1
        if self._num_body_bytes > self.bound:
            self.refuse(too_large(self.bound))
        elif self._num_chunks > MAX_CHUNKS:
            self.refuse(BAD_HEAD)
        elif not self._has_room():
            self.refuse(TOO_BUSY)
        return self._refused is None

    def allContentReceived(self) -> None:
        if self._refused is not None:
            return
        self._num_body_bytes = self._num_chunks = 0
        self.limits.connections.work(self.transport)
        self.setTimeout(KEEP_ALIVE_SECONDS)  # which Twisted keeps for after the answer
        super().allContentReceived()

    def requestDone(self, request: Any) -> None:
        self._forget_body()
        self._is_between_requests = True
        self.limits.connections.wait(self.transport, self.transport.abortConnection)
        super().requestDone(request)

    # -- bytes out

    def pauseProducing(self) -> None:
        self._stall.begin()
        super().pauseProducing()

    def resumeProducing(self) -> None:
        self._stall.end()
        super().resumeProducing()

    # -- refusing

    def refuse(self, refused: Refused) -> None:
        """Answer, say nothing more, and for a moment drop what still comes: a client that is cut off while it
        sends does not read."""
        self._refused = refused
        self.length = None
        self.setRawMode()
        self._forget_body()
        path = (self.requests[-1].asked_path if self.requests else b"/").decode("latin-1")
        head = "".join(f"{name}: {value}\r\n" for name, value in refused.headers(path).items())
        content = refused.body(path)[1]
        is_head = getattr(self, "_command", b"") == b"HEAD"
        stamps = f"server: pilothouse\r\nx-request-id: req_{uuid.uuid4().hex}\r\n"
        answer = f"HTTP/1.1 {refused.status} {refused.reason}\r\n{stamps}{head}\r\n".encode("latin-1")
        self.transport.write(answer if is_head else answer + content)
        self._networkProducer.unregisterProducer()
        self.transport.loseWriteConnection()
        self.setTimeout(LINGER_SECONDS)
        observe_refusal(endpoint="none", error_code=refused.code)
        observe_response(route="none", method="", status=refused.status)

    def _respondToBadRequestAndDisconnect(self) -> None:
        is_size = self._receivedHeaderSize > self.totalHeadersSize or self._receivedHeaderCount > MAX_HEADERS
        if self._refused is None:
            self.refuse(HEAD_TOO_LARGE if is_size else BAD_HEAD)

    def _why_refused(self, request: BoundedRequest) -> Refused | None:
        headers = {
            name.decode("latin-1").lower(): b",".join(values).decode("latin-1")
            for name, values in request.requestHeaders.getAllRawHeaders()
        }
        is_upgrade = headers.get("upgrade", "").partition(",")[0].strip().lower() == "websocket"
        self.bound = body_bound(request.asked_path.decode("latin-1"), is_upgrade=is_upgrade)
        version = self._version.removeprefix(b"HTTP/").decode("latin-1")
        return why_refused(headers, version=version, bound=self.bound, length=self.length)

    def _has_room(self) -> bool:
        """True where all large bodies together leave room for this one as it has grown."""
        more = self._num_body_bytes - self._num_taken
        if self._num_body_bytes <= SMALL_BODY_BYTES:
            return True
        if not self.limits.bodies.take(more):
            return False
        self._num_taken += more
        return True

    def _forget_body(self) -> None:
        self.limits.bodies.give_back(self._num_taken)
        self._num_taken = 0
        if self._refused is not None and self.requests and self.requests[-1].content is not None:
            self.requests[-1].content.close()

    def _drop(self, data: bytes) -> None:
        self._num_dropped += len(data)
        if self._num_dropped > LINGER_BYTES:
            self.transport.abortConnection()


class BoundedFactory(HTTPFactory):  # type: ignore[misc]  # Daphne has no types
    """Makes channels within a server's limits."""

    def __init__(self, server: Any, limits: Limits) -> None:
        super().__init__(server)
        self._limits = limits

    def protocol(self) -> BoundedChannel:
        channel = BoundedChannel()
        channel.limits = self._limits
        return channel

    def buildProtocol(self, address: Any) -> BoundedChannel:
        channel: BoundedChannel = super().buildProtocol(address)
        channel.requestFactory = BoundedRequest
        return channel
