"""Refusals by a request's head alone, before its body is read, under every server."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from console.endpoint_registry import KB, MB, endpoints

# Path prefix -> the most bytes that a body may have, beside what endpoints of /v1 say. The longest prefix
# counts. No route takes files: imports are named by path, hub or package.
BODY_BYTES = {"/": 256 * KB, "/v1/": 64 * KB}
JSON_PATHS = ("/v1/", "/api/")


@dataclass(frozen=True, slots=True)
class Refused:
    """An answer that needs no application. `code` is stable; docs/api.md lists it."""

    status: int
    reason: str
    code: str
    message: str

    def body(self, path: str) -> tuple[str, bytes]:
        """Its content type and bytes: OpenAI's shape where programs call."""
        if not f"{path}/".startswith(JSON_PATHS):
            return "text/plain; charset=utf-8", f"{self.message}\n".encode()
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        error = {"message": self.message, "type": kind, "param": None, "code": self.code}
        return "application/json", json.dumps({"error": error}).encode()

    def headers(self, path: str) -> dict[str, str]:
        kind, content = self.body(path)
        headers = {
            "content-type": kind,
            "content-length": str(len(content)),
            "connection": "close",
            "x-content-type-options": "nosniff",
        }
        return headers | ({"retry-after": "1"} if self.status in (429, 503) else {})


BAD_HEAD = Refused(400, "Bad Request", code="bad_request", message="The request is not valid HTTP.")
NO_HOST = Refused(400, "Bad Request", code="bad_request", message="An HTTP/1.1 request names its Host.")
TOO_SLOW = Refused(
    408, "Request Timeout", code="request_incomplete", message="The request did not arrive in time."
)
ENCODED = Refused(
    415,
    "Unsupported Media Type",
    code="unsupported_content_encoding",
    message="Content-Encoding is not supported in requests: send the body as it is.",
)
HEAD_TOO_LARGE = Refused(
    431,
    "Request Header Fields Too Large",
    code="headers_too_large",
    message="The request's headers are too many or long.",
)
TOO_MANY = Refused(
    429,
    "Too Many Requests",
    code="too_many_requests",
    message="Too many requests of this address are being answered.",
)
TOO_BUSY = Refused(
    503,
    "Service Unavailable",
    code="server_busy",
    message="Too much is being received at this moment; try again.",
)


def too_large(bound: int) -> Refused:
    if not bound:
        message = "A request of this kind has no body."
    elif bound >= MB:
        message = f"The request body is larger than {bound // MB} MB."
    else:
        message = f"The request body is larger than {bound // KB} KB."
    return Refused(413, "Content Too Large", code="request_too_large", message=message)


def body_bound(path: str, *, is_upgrade: bool = False) -> int:
    """The most bytes that a request's body may have."""
    if is_upgrade:
        return 0
    bounds = body_bounds()
    return bounds[max((one for one in bounds if path.startswith(one)), key=len, default="/")]


def body_bounds() -> dict[str, int]:
    return BODY_BYTES | {one.path: one.max_body_bytes for one in endpoints()}


def most_body_bytes() -> int:
    return max(body_bounds().values())


def why_refused(
    headers: Mapping[str, str], *, version: str, bound: int, length: int | None
) -> Refused | None:
    """`length`: of the body, as the head tells it; None: it comes in chunks."""
    if version == "1.1" and "host" not in headers:
        return NO_HOST
    if headers.get("content-encoding", "identity").strip().lower() not in ("", "identity"):
        return ENCODED
    if (length is None and not bound) or (length or 0) > bound:
        return too_large(bound)
    return None
