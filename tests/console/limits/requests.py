"""Made-up requests for the ledger's tests."""

from __future__ import annotations

from typing import Any

from django.utils import timezone

from console.accounts.caller import Caller
from console.keys.models import ApiKey
from console.usage.record import Settlement


def caller_of(key: ApiKey) -> Caller:
    return Caller("key", key.public_id, key.name, key.team_id, "salt", key_pk=key.pk)


def ended(**columns: Any) -> Settlement:
    defaults: dict[str, Any] = {
        "model": "smollm2-135m",
        "revision": "smollm2-135m-1",
        "endpoint": "chat.completions",
        "transport": "sse",
        "outcome": "finished",
        "finish_reason": "stop",
        "created_at": timezone.now(),
    }
    return Settlement(**(defaults | columns))
