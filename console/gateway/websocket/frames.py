"""The frames of the WebSocket: what a client may send, and the envelope of what it gets. docs/websocket.md
is their description.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import StringConstraints, ValidationError

from console.gateway.endpoints.wire import Strict, explain
from console.gateway.errors import ApiError, invalid

StreamId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.-]{1,256}$")]


class Envelope(Strict):
    """`stream_id` names a lane: requests of one lane run one after the other, lanes run side by side."""

    type: Literal["response.create", "response.cancel"]
    stream_id: StreamId | None = None


def open_envelope(message: dict[str, Any]) -> tuple[Envelope, dict[str, Any]]:
    """The envelope and the request body that rides in it; raises `ApiError`."""
    outside: dict[str, Any] = {name: message[name] for name in ("type", "stream_id") if name in message}
    try:
        envelope = Envelope.model_validate(outside)
    except ValidationError as error:
        raise explain(error, outside) from None
    body = {name: value for name, value in message.items() if name not in outside}
    if envelope.type == "response.cancel" and body:
        raise invalid("A cancel has no body.", param=next(iter(body))[:64], code="unknown_parameter")
    return envelope, body


def chat_body(body: dict[str, Any]) -> dict[str, Any]:
    """The chat request in a `response.create`. Every answer streams here, with usage in its last frame."""
    if "input" in body and "messages" not in body:
        raise ApiError(
            400,
            "unsupported_parameter",
            "'input' is not supported: send a chat request with 'messages'.",
            "input",
        )
    for name in ("stream", "stream_options"):
        if body.get(name) is not None:
            raise ApiError(
                400,
                "unsupported_parameter",
                f"'{name}' is not sent here: every answer streams, with usage.",
                name,
            )
    return {**body, "stream": True}


def server_frame(kind: str, stream_id: str | None, sequence_number: int, **body: Any) -> dict[str, Any]:
    frame: dict[str, Any] = {"type": kind, "sequence_number": sequence_number, **body}
    return frame if stream_id is None else {**frame, "stream_id": stream_id}


def chunk_frame(stream_id: str | None, sequence_number: int, chunk: str) -> str:
    """A chunk of an answer, which is JSON already, in a frame as text."""
    head = f'{{"type":"chat.completion.chunk","sequence_number":{sequence_number},"chunk":{chunk}'
    return head + ("}" if stream_id is None else f',"stream_id":{json.dumps(stream_id)}}}')


def error_frame(error: ApiError, stream_id: str | None, sequence_number: int) -> dict[str, Any]:
    """OpenAI's `error` event: REST's object with its status, and what `Retry-After` says there."""
    wait = error.headers.get("retry-after-ms")
    later = {} if wait is None else {"retry_after_ms": int(wait)}
    return server_frame("error", stream_id, sequence_number, status=error.status, **later, **error.body())
