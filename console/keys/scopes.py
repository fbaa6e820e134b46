"""Scopes of API keys: those of the endpoints of /v1, and those that a key has only where they are named."""

from __future__ import annotations

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from console.accounts.caller import Caller, Forbidden
from console.endpoint_registry import KeyScope, endpoints

# Never implied: a key that names no scope has neither.
REVISIONS = "revisions"  # `name@revision` as a model, past every route
MANAGEMENT = "management"  # /api/v1
NAMED_ONLY: dict[str, str | Promise] = {
    REVISIONS: _("Single revisions of a model, as name@revision"),
    MANAGEMENT: _("Management API, as an operator"),
}


def endpoint_scopes() -> dict[str, str | Promise]:
    """The scopes of endpoints, with their labels. A key that names none has all of these."""
    return {one.scope.name: one.scope.label for one in endpoints()}


def all_scopes() -> dict[str, str | Promise]:
    return endpoint_scopes() | NAMED_ONLY


def require(scope: KeyScope, *, caller: Caller) -> None:
    """Raises Forbidden when the caller's key was not issued for this."""
    if not caller.may_call(scope.name):
        raise Forbidden(f"This key lacks the scope '{scope.name}'.", code="missing_scope")


def may_address_revisions(caller: Caller) -> bool:
    """Whether the caller may ask for a revision that no route leads to: people, and keys made for it."""
    return caller.kind == "session" or REVISIONS in caller.scopes
