"""The loop: schedule -> run -> sample -> deliver. Knows requests and tokens, no tensors and no web."""

from __future__ import annotations

from collections.abc import Callable

from inference.protocol import EngineError, Event, GenerateRequest, ModelCard, RevisionStats


class Engine:
    """Continuous batching of one revision. One thread owns it: every method is called from the thread that steps.

    Events go out through each request's `on_event`, called from inside `step`, `abort`, `abort_owner`, `extend`
    or `fail_all`, in order; exactly one `Finish` per accepted request, as the last.
    """

    card: ModelCard

    def submit(self, request: GenerateRequest, on_event: Callable[[Event], None]) -> None:
        """Queue a request. Raises `Refusal` for all that can be seen to be wrong; then `on_event` is never called."""
        raise NotImplementedError

    def extend(self, request_id: str, *, allowance: int, is_final: bool) -> None:
        """Raise the output tokens granted; `is_final`: at it the request ends (BUDGET). Unknown ids are ignored."""
        raise NotImplementedError

    def abort(self, request_id: str) -> None:
        """Finish a request as CANCELLED and free what it holds. Unknown ids are ignored."""
        raise NotImplementedError

    def abort_owner(self, owner_id: str) -> None:
        """Abort all requests of an owner."""
        raise NotImplementedError

    def fail_all(self, error: EngineError) -> None:
        """Finish every request as FAILED: the engine ends, or its device is lost."""
        raise NotImplementedError

    def step(self) -> bool:
        """One turn of the loop. False: nothing can go on before a command, or before `next_deadline`."""
        raise NotImplementedError

    @property
    def has_work(self) -> bool:
        """Whether any accepted request has not finished."""
        raise NotImplementedError

    def next_deadline(self) -> float | None:
        """Clock time at which `step` must be called even without a command; None: never."""
        raise NotImplementedError

    def stats(self) -> RevisionStats:
        """Counters and gauges as they stand now."""
        raise NotImplementedError

    def close(self) -> None:
        """Let go of the model and the KV pool. Nothing may be called after it."""
        raise NotImplementedError
