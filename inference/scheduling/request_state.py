"""A request in flight: its sequence, its text so far, where its events go, and when it is to stop."""

from __future__ import annotations

from collections.abc import Callable

from inference.protocol.events import Delta, Event, FinishReason
from inference.scheduling.interfaces import Detokenizer, Sampled
from inference.scheduling.phase_timeline import Timeline
from inference.scheduling.sequence import Sequence

Stop = tuple[FinishReason, str | int | None]  # why it ends, and what matched


class Flight:
    """Joins what belongs to one accepted request."""

    __slots__ = (
        "detokenizer",
        "num_output_tokens",
        "on_event",
        "sequence",
        "silent_ids",
        "stop_ids",
        "timeline",
    )

    def __init__(
        self,
        sequence: Sequence,
        *,
        on_event: Callable[[Event], None],
        detokenizer: Detokenizer,
        eos_token_ids: frozenset[int],
        now: float,
    ) -> None:
        sampling = sequence.request.sampling
        eos_token_ids = frozenset() if sampling.ignore_eos else eos_token_ids
        self.sequence = sequence
        self.on_event = on_event
        self.detokenizer = detokenizer
        self.timeline = Timeline(now)
        self.num_output_tokens = 0  # accepted so far
        self.stop_ids = eos_token_ids.union(sampling.stop_token_ids)
        self.silent_ids = (
            eos_token_ids if sampling.include_stop_str_in_output else self.stop_ids
        )  # without text

    def accept(self, token_id: int, sampled: Sampled) -> Stop | None:
        """Append a token, send its delta, and say whether it is the last."""
        sequence, sampling = self.sequence, self.sequence.request.sampling
        self.num_output_tokens = num_output_tokens = self.num_output_tokens + 1
        is_stop_token = token_id in self.stop_ids and num_output_tokens > sampling.min_tokens
        text = "" if is_stop_token and token_id in self.silent_ids else self.detokenizer.push([token_id])
        sequence.add_token(token_id)
        stop: Stop | None = None
        if is_stop_token:
            stop = FinishReason.STOP, token_id if token_id in sampling.stop_token_ids else None
        elif self.detokenizer.matched_stop is not None:
            stop = FinishReason.STOP, self.detokenizer.matched_stop
        elif num_output_tokens >= sequence.max_tokens:
            stop = FinishReason.LENGTH, None
        elif sequence.is_allowance_final and sequence.has_used_allowance:
            stop = FinishReason.BUDGET, None
        self.on_event(Delta(text, (token_id,), () if sampled.logprob is None else (sampled.logprob,)))
        return stop

    def send_held_text(self) -> None:
        """The sequence ends: what was held back for more is certain now."""
        text = self.detokenizer.flush()
        if text:
            self.on_event(Delta(text, ()))
