"""The policy of `console/policy.py`, asked before any view of the management API runs."""

from __future__ import annotations

from typing import Any

from rest_framework.permissions import BasePermission
from rest_framework.request import Request

from console.policy import API, permits


class ByPolicy(BasePermission):
    """What the policy does not name for a route and a method, nobody may."""

    message = "Your role may not do this."
    code = "insufficient_permissions"

    def has_permission(self, request: Request, view: Any) -> bool:
        match = request.resolver_match
        method = "GET" if request.method == "HEAD" else request.method or ""
        who = API.get(match.view_name if match else "", {}).get(method)
        if who is None:
            return request.method not in view.allowed_methods  # DRF answers 405
        return permits(who, request.user)
