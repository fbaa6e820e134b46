"""What is not there, in the management API's own words."""

from __future__ import annotations

from django.http import HttpRequest, JsonResponse


def nothing_here(request: HttpRequest) -> JsonResponse:
    message = "There is nothing at this address."
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": "not_found"}
    return JsonResponse({"error": error}, status=404)
