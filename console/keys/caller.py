"""The caller, as the data plane imports it; it lives with accounts because people call too."""

from __future__ import annotations

from console.accounts.caller import Caller, Forbidden, NotAuthenticated

__all__ = ["Caller", "Forbidden", "NotAuthenticated"]
