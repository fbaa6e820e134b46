"""Why a change of a rollout was refused: a code for programs, words for people."""

from __future__ import annotations


class RolloutRefused(RuntimeError):
    """Nothing has changed. `code` is one of the codes in docs/rollouts.md."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class RolloutChanged(RolloutRefused):
    """Somebody else was faster: look again, then decide again."""

    def __init__(self, message: str) -> None:
        super().__init__("changed_meanwhile", message)
