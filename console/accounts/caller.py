"""Who a request to the data plane runs for: a program with a key, or a person signed in to the console."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


class NotAuthenticated(Exception):
    """Answered with 401. `code` is stable; the message never repeats what the client sent."""

    def __init__(self, message: str, *, code: str = "invalid_api_key") -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Forbidden(Exception):
    """Answered with 403: known, but not allowed to do this."""

    def __init__(self, message: str, *, code: str = "insufficient_permissions") -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Caller:
    kind: Literal["key", "session"]
    id: str  # the key's public id, or "user:<pk>"
    name: str
    team_id: int
    salt: str  # the team's namespace in the prefix cache
    key_pk: int | None = None
    user_pk: int | None = None
    scopes: frozenset[str] = frozenset()  # endpoints that a key may call; none named: every one
    models: frozenset[str] = frozenset()  # models that it may ask for, by public name; none named: every one

    def __post_init__(self) -> None:
        if (self.key_pk is None) == (self.user_pk is None):
            raise ValueError("a caller is either a key or a person")

    def may_call(self, scope: str) -> bool:
        return not self.scopes or scope in self.scopes

    def may_ask_for(self, model: str) -> bool:
        return not self.models or model in self.models
