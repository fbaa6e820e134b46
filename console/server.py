"""Daphne with a drain: at SIGTERM or Ctrl-C nothing new is taken and streams finish; a second signal
shortens the wait.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from typing import Any

from daphne.server import Server, twisted_loop
from daphne.ws_protocol import WebSocketProtocol
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.error import CannotListenError
from twisted.python.failure import Failure

from console.backpressure import STALL_SECONDS, ReaderStalled, WriteGate, write_chunk
from console.environment import environment
from console.gateway.body import MAX_BODY_BYTES
from console.startup import CannotStart, drain_engine, stop_engine

logger = logging.getLogger(__name__)

LAST_WORDS_SECONDS = 5.0  # for connections to send what they have once everything is settled

loop = twisted_loop


class DrainingServer(Server):  # type: ignore[misc]  # Daphne has no types
    """Daphne registers `kill_all_applications` as what happens before shutdown; here that is the drain."""

    stall_seconds = STALL_SECONDS

    def __init__(self, application: Any, *, host: str, port: int, announce: Callable[[], None]) -> None:
        address = host.replace(":", r"\:")
        super().__init__(
            application,
            endpoints=[f"tcp:port={port}:interface={address}"],
            signal_handlers=False,
            websocket_max_message_size=MAX_BODY_BYTES,
            websocket_max_frame_size=MAX_BODY_BYTES,
            server_name="pilothouse",
        )
        self._announce = announce
        self._ports: list[Any] = []  # Daphne forgets them: its own callback returns None
        self._hurry = asyncio.Event()
        self._is_stopping = False
        self.failure: str = ""

    def run(self) -> None:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop_soon)
        super().run()

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
        """Daphne's, but it returns when the connection can take more; a reader that stalls is cut off."""
        connection = self.connections.get(protocol, {})
        kind = message.get("type")
        is_last = kind == "websocket.close" or (
            kind == "http.response.body" and not message.get("more_body", False)
        )
        if is_last and (gate := connection.pop("write_gate", None)):
            gate.close()
        gate = connection.get("write_gate")
        if gate is not None and kind == "http.response.body" and "disconnected" not in connection:
            write_chunk(protocol, message.get("body", b""))  # in mid-stream, for every token
        else:
            await super().handle_reply(protocol, message)
        if is_last or kind not in ("http.response.body", "websocket.send"):
            return
        if gate is None:
            gate = connection["write_gate"] = self._make_gate(protocol)
        if gate.is_open():
            return
        try:
            await gate.passed(self.stall_seconds)
        except ReaderStalled:
            logger.info("a client took no data for %.0f s and was cut off", self.stall_seconds)
            protocol.transport.abortConnection()
            await asyncio.sleep(1)  # the application learns of it as a disconnect, and is cancelled here

    @staticmethod
    def _make_gate(protocol: Any) -> WriteGate:
        if isinstance(protocol, WebSocketProtocol):
            protocol.transport.unregisterProducer()  # the HTTP channel's, from before the upgrade
            return WriteGate(protocol.transport)
        return WriteGate(protocol)

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
