"""Daphne with a drain: at SIGTERM or Ctrl-C nothing new is taken and streams finish; a second signal
shortens the wait.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from functools import partial
from typing import Any

from daphne.server import Server, twisted_loop
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import serverFromString
from twisted.internet.error import CannotListenError
from twisted.logger import globalLogBeginner
from twisted.python.failure import Failure

from console.channel.arrivals import Arrivals
from console.channel.backpressure import WriteGate, write_chunk
from console.channel.head import most_body_bytes
from console.channel.http import BoundedFactory
from console.channel.limits import Limits
from console.channel.websocket import BoundedSocket, BoundedSocketFactory
from console.environment import environment
from console.server.startup import CannotStart, drain_engine, stop_engine

logger = logging.getLogger(__name__)

BACKLOG = 1024  # connections that wait to be accepted
PONG_SECONDS = 30  # a socket that does not answer a ping for so long is closed
LAST_WORDS_SECONDS = 5.0  # for connections to send what they have once everything is settled

loop = twisted_loop


class DrainingServer(Server):  # type: ignore[misc]  # Daphne has no types
    """Daphne registers `kill_all_applications` as what happens before shutdown; here that is the drain."""

    def __init__(
        self, application: Any, *, host: str, port: int, limits: Limits, notify_workers: Callable[[], None]
    ) -> None:
        address = host.replace(":", r"\:")
        super().__init__(
            application,
            endpoints=[f"tcp:port={port}:interface={address}:backlog={BACKLOG}"],
            signal_handlers=False,
            request_buffer_size=most_body_bytes() + 1,  # a body is one message
            server_name="pilothouse",
        )
        self.connections: dict[Any, dict[str, Any]] = {}
        self._limits = limits
        self._announce = notify_workers
        self._ports: list[Any] = []  # Daphne forgets them: its own callback returns None
        self._hurry = asyncio.Event()
        self._is_stopping = False
        self.failure: str = ""

    def run(self) -> None:
        """Daphne's, with connections and sockets that are bounded."""
        globalLogBeginner.beginLoggingTo([lambda _: None], redirectStandardIO=False, discardBuffer=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop_soon)
        self.http_factory = BoundedFactory(self, self._limits)
        self.ws_factory = self._make_sockets()
        for endpoint in self.endpoints:
            listener = serverFromString(reactor, endpoint).listen(self.http_factory)
            listener.addCallbacks(self.listen_success, self.listen_error)
        reactor.callLater(1, self.application_checker)
        reactor.callLater(2, self.timeout_checker)
        asyncio.set_event_loop(loop)
        reactor.addSystemEventTrigger("before", "shutdown", self.kill_all_applications)
        if not self.abort_start:
            reactor.run(installSignalHandlers=False)

    def _make_sockets(self) -> BoundedSocketFactory:
        sockets = BoundedSocketFactory(self, self._limits, server=self.server_name)
        sockets.setProtocolOptions(
            autoPingTimeout=PONG_SECONDS,
            allowNullOrigin=True,
            failByDrop=False,  # a close frame says why
            openHandshakeTimeout=self.websocket_handshake_timeout,
            maxMessagePayloadSize=most_body_bytes(),
            maxFramePayloadSize=most_body_bytes(),
        )
        return sockets

    def create_application(self, protocol: Any, scope: dict[str, Any]) -> Arrivals:
        """Daphne's, with a queue that can tell when it is full."""
        arrivals = Arrivals()
        scope["asgi"] = {"version": "3.0"}
        running = self.application(scope, arrivals.get, partial(self.handle_reply, protocol))
        self.connections[protocol]["application_instance"] = asyncio.ensure_future(running)
        return arrivals

    def stop_soon(self) -> None:
        if self._is_stopping:
            self._hurry.set()
            return
        self._is_stopping = True
        reactor.stop()

    def listen_success(self, port: Any) -> None:
        super().listen_success(port)
        self._ports.append(port)
        self._announce()

    def listen_error(self, failure: Failure) -> None:
        in_use = failure.check(CannotListenError)
        self.failure = str(failure.value) if in_use else failure.getErrorMessage()
        self.stop()

    async def handle_reply(self, protocol: Any, message: dict[str, Any]) -> None:
        """Daphne's, but it returns when the connection can take more. It is the connection that cuts off a
        reader who takes nothing."""
        connection = self.connections.get(protocol)
        if connection is None:
            return
        kind = message.get("type")
        is_last = kind == "websocket.close" or (
            kind == "http.response.body" and not message.get("more_body", False)
        )
        if is_last and (gate := self._gate(protocol, connection)):
            connection.pop("write_gate", None)
            gate.close()
        gate = connection.get("write_gate")
        if gate is not None and kind == "http.response.body" and "disconnected" not in connection:
            write_chunk(protocol, message.get("body", b""))  # in mid-stream, for every token
        else:
            await super().handle_reply(protocol, message)
        if is_last or kind not in ("http.response.body", "websocket.send"):
            return
        gate = self._gate(protocol, connection)
        if gate is None and "disconnected" not in connection:
            is_open = not protocol.channel._waitingForTransport
            gate = connection["write_gate"] = WriteGate(protocol, is_open=is_open)
        if gate is None or gate.is_open():
            return
        await gate.passed()
        if "disconnected" in connection:
            await asyncio.sleep(1)  # the application learns of it as a disconnect, and is cancelled here

    @staticmethod
    def _gate(protocol: Any, connection: dict[str, Any]) -> WriteGate | None:
        """A socket has one from the beginning, a request once it streams."""
        return protocol.gate if isinstance(protocol, BoundedSocket) else connection.get("write_gate")

    def kill_all_applications(self) -> Deferred[None]:
        return Deferred.fromFuture(asyncio.ensure_future(self._drain()))

    async def _drain(self) -> None:
        for port in self._ports:
            stopped = port.stopListening()
            if isinstance(stopped, Deferred):
                await stopped.asFuture(loop)
        await drain_engine(environment().drain_seconds, self._hurry)
        pending = self._pending()
        if pending:
            await asyncio.wait(pending, timeout=LAST_WORDS_SECONDS)
        late = self._pending()
        for application in late:
            application.cancel()
        await asyncio.gather(*late, return_exceptions=True)
        await stop_engine()
        await asyncio.sleep(0.1)  # one turn of the reactor, so that what was written is also sent

    def _pending(self) -> list[asyncio.Future[None]]:
        """Applications that still run; a kept-alive connection between two requests has none."""
        found = [details.get("application_instance") for details in self.connections.values()]
        return [one for one in found if one is not None and not one.done()]


def check_port(host: str, port: int) -> None:
    """Raises `CannotStart` now rather than after minutes of loading."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            word = "is in use: stop the other program, or choose another with PORT=8001"
            if error.errno not in (98, 48):  # EADDRINUSE on Linux and macOS
                word = f"cannot be used: {error.strerror}"
            raise CannotStart(f"Port {port} of {host} {word}.") from None
