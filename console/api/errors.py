"""Every way in which the management API says no: one shape, `{"error": {message, type, param, code}}`."""

from __future__ import annotations

import logging
from typing import Any

from django.core.exceptions import PermissionDenied
from django.core.exceptions import ValidationError as DjangoValidationError
from django.db import OperationalError
from django.http import Http404
from rest_framework import exceptions
from rest_framework.response import Response
from rest_framework.views import set_rollback

from console.accounts.actions import LastAdmin
from console.catalog.actions import DeleteRefused
from console.catalog.import_request import ImportRefused
from console.catalog.routes import BadRoute
from console.certificates.actions import CertifyRefused, QuantizeRefused
from console.deployments.actions import DeploymentRefused
from console.jobs.actions import JobActionRefused
from console.keys.actions import BadKey
from console.limits.actions import BadLimit
from console.rollouts.errors import RolloutRefused
from console.rollouts.state_machine import BadSteps
from console.usage.actions import NotInFlight

logger = logging.getLogger(__name__)

CONFLICTS: dict[type[Exception], str] = {  # what cannot be done as things stand
    JobActionRefused: "job_not_possible",
    DeploymentRefused: "deployment_refused",
    DeleteRefused: "files_in_use",
    QuantizeRefused: "quantize_refused",
    CertifyRefused: "certify_refused",
}
TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


def answer(error: Exception, context: dict[str, Any]) -> Response:
    """DRF's handler of whatever a view raised."""
    set_rollback()
    match error:
        case exceptions.ValidationError():
            param, message, code = first(error.detail)
            return refusal(400, code, message, param)
        case exceptions.APIException():
            code, message = _code_of(error), str(error.detail)
            headers = {"WWW-Authenticate": "Bearer"} if error.status_code == 401 else {}
            return refusal(error.status_code, code, message, headers=headers)
        case Http404():
            return refusal(404, "not_found", "There is nothing at this address.")
        case PermissionDenied():
            return refusal(403, "insufficient_permissions", str(error) or "You may not do this.")
        case RolloutRefused():
            return refusal(409, error.code, str(error))
        case BadKey() | BadLimit() | BadRoute() | BadSteps() | ImportRefused():
            return refusal(400, "invalid_value", str(error), getattr(error, "field", None) or None)
        case DjangoValidationError():
            return refusal(400, "invalid_value", " ".join(error.messages))
        case LastAdmin():
            return refusal(409, "last_admin", "This is the only admin: make somebody else an admin first.")
        case _ if type(error) in CONFLICTS:
            return refusal(409, CONFLICTS[type(error)], str(error))
        case NotInFlight():
            return refusal(404, "not_in_flight", "No request of that id runs here: it has ended.")
        case OperationalError():
            message = "The server cannot write to its database now; nothing was changed. Try again."
            return refusal(503, "storage_unavailable", message, headers={"Retry-After": "1"})
    logger.error("the management API failed", exc_info=error)
    return refusal(500, "internal_error", "Something went wrong here. The request id helps to find out what.")


def refusal(
    status: int, code: str, message: str, param: str | None = None, headers: dict[str, str] | None = None
) -> Response:
    kind = TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
    return Response(body, status=status, headers=headers)


def first(detail: Any, path: str = "") -> tuple[str | None, str, str]:
    """The first fault of a validation, by the field's path: (param, message, code)."""
    if isinstance(detail, dict):
        name, inner = next(iter(detail.items()))
        if name == "non_field_errors":
            return first(inner, path)
        return first(inner, f"{path}.{name}" if path else str(name))
    if isinstance(detail, list):
        return first(detail[0], path)
    return path or None, f"{path}: {detail}" if path else str(detail), detail.code or "invalid_value"


def _code_of(error: exceptions.APIException) -> str:
    codes = error.get_codes()
    return codes if isinstance(codes, str) else "invalid_request"
