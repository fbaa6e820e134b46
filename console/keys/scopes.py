"""What a key may be limited to: families of endpoints."""

from __future__ import annotations

from django.db.models import TextChoices
from django.utils.translation import gettext_lazy as _

from console.accounts.caller import Caller, Forbidden


class Scope(TextChoices):
    CHAT = "chat", _("Chat completions, over HTTP and WebSocket")
    COMPLETIONS = "completions", _("Text completions")
    MODELS = "models", _("The list of models")


def require(scope: Scope, *, caller: Caller) -> None:
    """Raises Forbidden when the caller's key was not issued for this."""
    if not caller.may_call(scope):
        raise Forbidden(f"This key lacks the scope '{scope.value}'.", code="missing_scope")
