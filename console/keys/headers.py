"""Keys in the headers that other clients use, `x-api-key` (Anthropic's) and `api-key` (Azure's), made the one
header that is read here.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

Application = Callable[[Any, Any, Any], Awaitable[None]]

OTHER_NAMES = (b"x-api-key", b"api-key")


class KeyHeaders:
    """Where a request has no Authorization header, its other key header becomes one; it is then taken off."""

    def __init__(self, app: Application) -> None:
        self._app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        offered = [value for name, value in scope.get("headers", ()) if name in OTHER_NAMES and value]
        if offered:
            headers = [one for one in scope["headers"] if one[0] not in OTHER_NAMES]
            if not any(name == b"authorization" for name, _ in headers):
                headers.append((b"authorization", b"Bearer " + offered[0]))
            scope = {**scope, "headers": headers}
        await self._app(scope, receive, send)
