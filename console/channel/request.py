"""A request within bounds: its body stays in memory, which its channel bounds, and an answer that has no body
gets none.
"""

from __future__ import annotations

from io import BytesIO
from typing import Any

from daphne.http_protocol import WebRequest

NO_BODY_STATUS = (204, 304)


class BoundedRequest(WebRequest):  # type: ignore[misc]  # Daphne has no types
    """Daphne's, which keeps large bodies in files, reads forms that Django reads again, and answers HEAD with
    the last piece of a body."""

    def __init__(self, channel: Any, *arguments: Any) -> None:
        super().__init__(channel, *arguments, parsePOSTFormSubmission=False)

    @property
    def asked_path(self) -> bytes:
        """Without query, as soon as the request line has come."""
        target: bytes = getattr(self.channel, "_path", b"/")
        return target.partition(b"?")[0]

    def gotLength(self, length: int | None) -> None:
        self.content = BytesIO()

    def handleContentChunk(self, data: bytes) -> None:
        if self.channel.take(data):
            self.content.write(data)

    def process(self) -> Any:
        processed = super().process()
        self.content = BytesIO()  # the application has what came
        return processed

    def handle_reply(self, message: dict[str, Any]) -> None:
        if message.get("type") == "http.response.body" and not self.may_have_body():
            message = {**message, "body": b""}
        super().handle_reply(message)

    def may_have_body(self) -> bool:
        return self.method != b"HEAD" and self.code not in NO_BODY_STATUS
