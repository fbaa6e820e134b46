"""What a key may be limited to: families of endpoints of /v1; and that it may manage, which must be said."""

from __future__ import annotations

from django.db.models import TextChoices
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from console.accounts.caller import Caller, Forbidden


class Scope(TextChoices):
    CHAT = "chat", _("Chat completions, over HTTP and WebSocket")
    COMPLETIONS = "completions", _("Text completions")
    MODELS = "models", _("The list of models")


MANAGEMENT = "management"  # /api/v1. Never implied: a key that names no scope does not have it
LABELS: dict[str, str | Promise] = {
    **{scope.value: scope.label for scope in Scope},
    MANAGEMENT: _("Management API, as an operator"),
}


def require(scope: Scope, *, caller: Caller) -> None:
    """Raises Forbidden when the caller's key was not issued for this."""
    if not caller.may_call(scope):
        raise Forbidden(f"This key lacks the scope '{scope.value}'.", code="missing_scope")
