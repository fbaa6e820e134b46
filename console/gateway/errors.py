"""Every way in which the API says no: one exception, one table from what was raised to status, type, code
and param.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from math import ceil
from typing import Any

from django.core.exceptions import BadRequest, RequestDataTooBig, SuspiciousOperation
from django.db import OperationalError
from django.http import Http404

from console.accounts.caller import Forbidden, NotAuthenticated
from console.database.group_commit import Unwritable
from console.limits.bucket import rate_headers
from console.limits.reserve import LimitExceeded
from inference.protocol.errors import NotReady, RequestRejected, UnknownRevision
from inference.protocol.events import EngineError


@dataclass(eq=False)  # not frozen: a context manager that it passes through sets its traceback
class ApiError(Exception):
    """An answer that is an error, in OpenAI's shape. `code` is stable and documented in docs/api.md."""

    status: int
    code: str
    message: str
    param: str | None = None
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def type(self) -> str:
        if self.code == "insufficient_quota":
            return "insufficient_quota"
        by_status = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        return by_status.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")


def openai_error(error: ApiError) -> dict[str, Any]:
    """The body of an error in OpenAI's dialect."""
    about = {"message": error.message, "type": error.type, "param": error.param, "code": error.code}
    return {"error": about}


def invalid(message: str, *, param: str | None = None, code: str = "invalid_value") -> ApiError:
    return ApiError(400, code, message, param)


def unsupported(name: str, why: str) -> ApiError:
    return ApiError(400, "unsupported_parameter", f"'{name}' is not supported: {why}.", name)


def retry_after(seconds: float | None) -> dict[str, str]:
    """None: waiting does not help, so nothing invites to another try."""
    if seconds is None:
        return {"x-should-retry": "false"}
    return {"retry-after": str(max(1, ceil(seconds))), "retry-after-ms": str(max(1, ceil(seconds * 1000)))}


def shutting_down() -> ApiError:
    return ApiError(
        503, "server_shutting_down", "This server is shutting down; try again.", headers=retry_after(1)
    )


# Engine error code -> status; what is not listed is our fault and 500.
ENGINE_STATUS = {
    "queue_timeout": 503,
    "engine_overloaded": 503,
    "engine_unavailable": 503,
    "first_token_timeout": 504,
    "token_timeout": 504,
    "request_timeout": 504,
}


def from_engine_error(error: EngineError | None) -> ApiError:
    """The answer to a `Finish` with reason FAILED."""
    if error is None:
        return ApiError(500, "engine_error", "The engine failed this request.")
    status = ENGINE_STATUS.get(error.code, 500)
    return ApiError(status, error.code, error.message, headers=retry_after(1) if status == 503 else {})


def from_rejection(rejected: RequestRejected) -> ApiError:
    match rejected:
        case NotReady():  # QueueFull is one
            headers = retry_after(rejected.retry_after_seconds)
            return ApiError(503, rejected.code, rejected.message, rejected.param, headers)
        case UnknownRevision():
            return ApiError(404, rejected.code, rejected.message, "model")
        case _:
            return ApiError(400, rejected.code, rejected.message, rejected.param)


def as_api_error(error: BaseException) -> ApiError | None:
    """The answer for an exception that was anticipated; None for one that was not (500, and logged)."""
    match error:
        case ApiError():
            return error
        case RequestRejected():
            return from_rejection(error)
        case NotAuthenticated():
            return ApiError(401, error.code, error.message, headers={"www-authenticate": "Bearer"})
        case Forbidden():
            return ApiError(403, error.code, error.message)
        case LimitExceeded():
            headers = retry_after(error.retry_after_seconds) | rate_headers(error.buckets)
            return ApiError(429, error.code, error.message, headers=headers)
        case Unwritable() | OperationalError():
            message = "The server cannot write to its database now, so nothing was begun; try again."
            return ApiError(503, "storage_unavailable", message, headers=retry_after(1))
        case Http404():
            return ApiError(404, "not_found", "There is nothing at this address.")
        case RequestDataTooBig():
            return ApiError(413, "request_too_large", "The request body is too large.")
        case BadRequest() | SuspiciousOperation():
            return ApiError(400, "bad_request", "The request could not be understood.")
        case _:
            return None


def unexpected() -> ApiError:
    return ApiError(
        500, "internal_error", "Something went wrong here. The request id helps to find out what."
    )
