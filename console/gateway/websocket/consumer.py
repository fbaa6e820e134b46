"""The WebSocket of an endpoint (chat's: /v1/responses): requests in frames shaped as in OpenAI's Responses
WebSocket mode, on the path that REST takes. Frames, authentication and limits: docs/websocket.md.
"""

from __future__ import annotations

import asyncio
import logging
import time
from dataclasses import dataclass
from typing import Any

from channels.generic.websocket import AsyncWebsocketConsumer

from console.environment import environment
from console.gateway import drain
from console.gateway.endpoints.base import GenerationEndpoint
from console.gateway.endpoints.registry import generating
from console.gateway.endpoints.response import encode, timings_json, usage_json
from console.gateway.errors import ApiError, as_api_error, invalid, shutting_down, unexpected
from console.gateway.http.handler import refuse_key_in_url
from console.gateway.pipeline.admission import admit
from console.gateway.pipeline.generation import generate
from console.gateway.refusal_audit import claimed_owner, count_refusal, list_refusal, source_of
from console.gateway.websocket.authentication import (
    SUBPROTOCOL,
    Authenticate,
    authentication_of,
    offered_key,
)
from console.gateway.websocket.frames import chunk_frame, error_frame, open_envelope, server_frame
from console.gateway.websocket.open_sockets import OPEN
from console.gateway.websocket.stream_queues import StreamLimitReached, StreamQueues
from monitoring import semconv, tracing
from monitoring.metrics import SOCKETS, observe_refusal

logger = logging.getLogger(__name__)

MAX_STREAMS = 8
MAX_WAITING = 8  # requests waiting in one stream
MAX_WAITING_BYTES = 4 * 1024 * 1024  # of all that wait in a socket's streams, as they came
IDLE_SECONDS = 600.0
MAX_SECONDS = 3600.0  # OpenAI's sockets live an hour, too
TICK_SECONDS = 5.0
MAX_NUMBERED = 1024  # streams whose frames are numbered
# Applications may only use 1000 and 4000-4999; the last three digits are those of the standard's own codes.
RESTART, TOO_OLD, TOO_BIG, UNAUTHENTICATED, TOO_MANY = 4012, 4008, 4009, 4401, 4429


@dataclass(slots=True)
class SocketRequest:
    """A request on the socket, so far: its refusal is listed unless it was accepted before."""

    owner: str = ""
    is_accepted: bool = False


class GenerationConsumer(AsyncWebsocketConsumer):
    """One socket: its streams, its limits, and a caller who is authenticated again with each request."""

    def __init__(self, *, endpoint: GenerationEndpoint) -> None:
        super().__init__()
        assert endpoint.socket is not None
        self._endpoint = endpoint
        self._dialect = endpoint.socket

    async def connect(self) -> None:
        self._streams: StreamQueues[dict[str, Any]] = StreamQueues(
            self._respond,
            max_streams=MAX_STREAMS,
            max_waiting=MAX_WAITING,
            max_waiting_bytes=MAX_WAITING_BYTES,
        )
        self._is_open = False
        self._num_sent: dict[str | None, int] = {}
        try:
            refuse_key_in_url(self.scope.get("query_string", b"").decode("latin-1"))
            self._authenticate: Authenticate = authentication_of(self.scope)
            caller = await self._authenticate()
            if drain.is_draining():
                raise shutting_down()
        except Exception as error:
            if (known := as_api_error(error)) is None:
                logger.exception("a WebSocket was refused: request %s", self.scope.get("request_id"))
            else:
                self._note_refusal(known, error)
            return await self.close()  # before accept: the handshake is answered with 403
        await self.accept(subprotocol=SUBPROTOCOL if SUBPROTOCOL in self.scope["subprotocols"] else None)
        self._is_open = True
        if not OPEN.enter(caller.id, most=environment().sockets_per_key):
            await self._say_error(_too_many_sockets(), None)
            self._is_open = False
            return await self.close(TOO_MANY)
        self._owner = caller.id
        SOCKETS.inc()
        drain.socket_opened(self._drain)
        self._clock = asyncio.create_task(self._watch_time())

    async def disconnect(self, code: int) -> None:
        if not self._is_open:
            return
        self._is_open = False
        OPEN.leave(self._owner)
        SOCKETS.dec()
        drain.socket_closed(self._drain)
        self._clock.cancel()
        await self._streams.close()

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        stream_id: str | None = None
        try:
            raw = text_data.encode() if text_data is not None else bytes_data or b""
            if len(raw) > self._endpoint.max_body_bytes:
                return await self.close(TOO_BIG)
            message = await self._endpoint.parse_body(raw, self._endpoint.max_body_bytes)
            given = message.get("stream_id")
            stream_id = given[:256] if isinstance(given, str) else None
            envelope, body = open_envelope(message)
            if envelope.type == "response.cancel":
                await self._cancel(stream_id)
            elif drain.is_draining():
                raise shutting_down()
            else:
                self._streams.add(stream_id, body, num_bytes=len(raw))
        except StreamLimitReached as limit:
            await self._say_error(_too_much(limit), stream_id)
        except ApiError as error:
            await self._say_error(error, stream_id)

    async def _cancel(self, stream_id: str | None) -> None:
        if not await self._streams.cancel(stream_id):
            raise invalid("There is nothing to cancel here.", param="stream_id", code="no_active_response")

    async def _respond(self, stream_id: str | None, body: dict[str, Any]) -> None:
        route = self._endpoint.socket_path
        about = {semconv.HTTP_ROUTE: route, semconv.REQUEST_ID: self.scope.get("request_id", "")}
        with tracing.opened(f"WEBSOCKET {route}", kind="server", attributes=about):
            await self._answer(stream_id, body)

    async def _answer(self, stream_id: str | None, body: dict[str, Any]) -> None:
        """One request, from its authentication to its last frame. It never raises but when cancelled at a
        close.
        """
        request = SocketRequest()
        try:
            await self._generate(stream_id, body, request)
        except asyncio.CancelledError:
            if not self._is_open:
                raise
            await self._say(f"{self._dialect.event}.cancelled", stream_id)
        except Exception as error:
            known = as_api_error(error)
            if known is None:
                logger.exception("stream failed: request %s", self.scope.get("request_id"))
            known = known or unexpected()
            self._note_refusal(known, error, request=request)
            tracing.failed(known.code, status=known.status)
            await self._say_error(known, stream_id)
            if known.status == 401:  # the key was revoked, or the session ended
                await self.close(UNAUTHENTICATED)

    async def _generate(self, stream_id: str | None, body: dict[str, Any], request: SocketRequest) -> None:
        arrived = time.monotonic()
        caller = await self._authenticate()
        request.owner = caller.id
        wire = self._endpoint.schema.parse(self._dialect.request_body(body))
        accepted = await admit(
            endpoint=self._endpoint,
            caller=caller,
            request=wire.to_pipeline(),
            transport="websocket",
            arrived=arrived,
        )
        request.is_accepted = True
        answer = self._endpoint.response.for_request(accepted, wire)
        async for chunk in answer.chunks(generate(accepted)):
            if chunk is not None:  # silence: the protocol has pings of its own
                number = self._next_number(stream_id)
                await self._send_text(chunk_frame(self._dialect.event, stream_id, number, chunk))
        ended = {"usage": usage_json(answer.usage), "timings": timings_json(answer.timings)}
        await self._say(f"{self._dialect.event}.done", stream_id, id=accepted.request_id, **ended)

    async def _say(self, kind: str, stream_id: str | None, **body: Any) -> None:
        await self._send(server_frame(kind, stream_id, self._next_number(stream_id), **body))

    async def _say_error(self, error: ApiError, stream_id: str | None) -> None:
        body = self._endpoint.error_body(error)
        await self._send(error_frame(error, body, stream_id, self._next_number(stream_id)))

    def _note_refusal(
        self, error: ApiError, cause: Exception, *, request: SocketRequest | None = None
    ) -> None:
        authorization = offered_key(self.scope)
        count_refusal(error, source=source_of(authorization), scope=self.scope)
        if request is not None and request.is_accepted:
            return
        observe_refusal(endpoint="websocket", error_code=error.code)
        owner = request.owner if request and request.owner else claimed_owner(authorization)
        about = {"endpoint": self._endpoint.name, "transport": "websocket"}
        list_refusal(error, cause, owner=owner, scope=self.scope, **about)

    async def _send(self, frame: dict[str, Any]) -> None:
        await self._send_text(encode(frame))

    async def _send_text(self, text: str) -> None:
        if self._is_open:
            await self.send(text_data=text)

    def _next_number(self, stream_id: str | None) -> int:
        """Frames are numbered per stream, without gaps, for as long as the socket lives."""
        number = self._num_sent.get(stream_id, 0)
        if len(self._num_sent) < MAX_NUMBERED or stream_id in self._num_sent:
            self._num_sent[stream_id] = number + 1
        return number

    async def _watch_time(self) -> None:
        """Close a socket that idles, or that has lived its hour."""
        idle = lived = 0.0
        while idle < IDLE_SECONDS and lived < MAX_SECONDS:
            await asyncio.sleep(TICK_SECONDS)
            lived += TICK_SECONDS
            idle = idle + TICK_SECONDS if self._streams.are_idle else 0.0
        if lived >= MAX_SECONDS:
            message = "This connection has lived its hour; open a new one."
            await self._say_error(ApiError(400, "websocket_connection_limit_reached", message), None)
            await self._streams.finish()
        await self.close(TOO_OLD if lived >= MAX_SECONDS else 1000)

    async def _drain(self) -> None:
        """The server drains: let what runs finish, then close so that the client connects elsewhere."""
        await self._streams.finish()
        await self.close(RESTART)


def consumers() -> dict[str, Any]:
    """Path -> the ASGI application of its sockets."""
    sockets = [one for one in generating() if one.socket is not None]
    return {one.socket_path: GenerationConsumer.as_asgi(endpoint=one) for one in sockets}


def _too_much(limit: StreamLimitReached) -> ApiError:
    if limit.what == "streams":
        message = f"A connection has {MAX_STREAMS} streams; wait for one or open another connection."
        return ApiError(400, "websocket_stream_limit_reached", message, "stream_id")
    message = f"This stream has {MAX_WAITING} requests waiting already."
    if limit.what == "bytes":
        message = f"What waits in this connection's streams is larger than {MAX_WAITING_BYTES} bytes."
    return ApiError(429, "websocket_lane_full", message, "stream_id")


def _too_many_sockets() -> ApiError:
    most = environment().sockets_per_key
    message = f"This key has {most} connections open already; use the streams of one."
    return ApiError(429, "too_many_connections", message)
