"""A word to the reconciler of this process: something was changed, look at once and not at the next turn."""

from __future__ import annotations

import threading

from console.database.after_commit import after_commit

CHANGED = threading.Event()


def signal_reconciler() -> None:
    """To be called inside the transaction that changes something; the word is said when it is committed."""
    after_commit(CHANGED.set, name="reconcile")
