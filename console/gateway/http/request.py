"""A request to the API plane."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest

from console.accounts.caller import Caller


class GatewayRequest(HttpRequest):
    """A request that came through `GatewayHandler`: its caller is known where the policy asks for one."""

    caller: Caller
    scope: dict[str, Any]
