"""What a key may be limited to: families of endpoints of /v1; and what it may only when that is said."""

from __future__ import annotations

from django.db.models import TextChoices
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from console.accounts.caller import Caller, Forbidden


class Scope(TextChoices):
    CHAT = "chat", _("Chat completions, over HTTP and WebSocket")
    COMPLETIONS = "completions", _("Text completions")
    MODELS = "models", _("The list of models")


# Never implied: a key that names no scope has neither.
REVISIONS = "revisions"  # `name@revision` as a model, past every route
MANAGEMENT = "management"  # /api/v1
LABELS: dict[str, str | Promise] = {
    **{scope.value: scope.label for scope in Scope},
    REVISIONS: _("Single revisions of a model, as name@revision"),
    MANAGEMENT: _("Management API, as an operator"),
}


def require(scope: Scope, *, caller: Caller) -> None:
    """Raises Forbidden when the caller's key was not issued for this."""
    if not caller.may_call(scope):
        raise Forbidden(f"This key lacks the scope '{scope.value}'.", code="missing_scope")


def may_address_revisions(caller: Caller) -> bool:
    """Whether the caller may ask for a revision that no route leads to: people, and keys made for it."""
    return caller.kind == "session" or REVISIONS in caller.scopes
