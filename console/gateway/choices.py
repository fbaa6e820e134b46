"""The engine requests of one accepted request: started together, fed slice by slice, ended together."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from console.gateway.flight import Hold
from console.gateway.inbox import Inbox
from console.gateway.laps import Laps, Stay
from console.gateway.schemas.demand import Demand
from console.keys.caller import Caller
from console.limits.models import Ticket
from console.limits.reserve import extend
from console.rollouts.choose import Arm
from inference.client import EngineClient
from inference.protocol import Delta, Event, Finish, GenerateRequest, Owner, Prepared, Timings, Usage
from monitoring.live import Progress
from monitoring.tracing import Place

Transport = Literal["rest", "sse", "websocket"]

HEADROOM = 64  # tokens before the end of a slice at which the next one is asked for
STOP_SECONDS = 5.0  # how long an aborted choice may take to report what it used


@dataclass(frozen=True, slots=True)
class Accepted:
    """A request that was let in: everything decided before the first token."""

    request_id: str
    caller: Caller
    demand: Demand
    arm: Arm
    prompts: tuple[Prepared, ...]
    transport: Transport
    slice_tokens: int
    created_at: float  # Unix time
    laps: Laps
    ticket: Ticket
    hold: Hold
    place: Place | None = None  # the span above, where the request is traced

    @property
    def choice_ids(self) -> tuple[str, ...]:
        """The engine's request ids."""
        return tuple(f"{self.request_id}-{index}" for index in range(self.demand.num_choices))

    def begin_answer(self) -> None:
        """The first of the answer leaves now: its headers, over HTTP. A plain one leaves when all is over."""
        if self.transport != "rest":
            self.laps.begin_answer()


class Choices:
    """Choice i continues prompt i // n."""

    def __init__(self, accepted: Accepted, engine: EngineClient) -> None:
        self._accepted = accepted
        self._engine = engine
        self._inbox = Inbox()
        self._num_granted = accepted.ticket.allowance  # of the ticket's tokens, those counted so far
        self._num_free = accepted.ticket.allowance  # those that no choice holds
        self._num_seen = [0] * accepted.demand.num_choices  # output tokens per choice
        self._unread = set(range(accepted.demand.num_choices))  # choices whose finish was not read yet
        self.finishes: dict[int, Finish] = {}
        self._started = time.monotonic()
        self._last_end: tuple[Finish, float] | None = None  # the finish that came last, and when
        self._ids = accepted.choice_ids
        self._pumps = [
            asyncio.create_task(self._pump(index), name=f"choice {choice_id}")
            for index, choice_id in enumerate(self._ids)
        ]

    def is_over(self) -> bool:
        """Whether the last choice's finish has been read."""
        return not self._unread

    async def next(self, seconds: float) -> tuple[int, Event] | None:
        """The next event of any choice; None after `seconds` of silence. Raises what a choice was refused
        with.
        """
        item = await self._inbox.next(seconds)
        if item is not None and isinstance(item[1], Finish):
            self._unread.discard(item[0])
        return item

    def abort(self) -> None:
        """Let the engine cancel what still runs; may be called from any thread."""
        for choice_id, pump in zip(self._ids, self._pumps, strict=True):
            if not pump.done():
                self._engine.abort(choice_id)

    async def stop(self) -> None:
        """Abort what still runs and wait, not for long, until it has said what it used."""
        self.abort()
        _, late = await asyncio.wait(self._pumps, timeout=STOP_SECONDS)
        for pump in late:
            pump.cancel()
        await asyncio.gather(*late, return_exceptions=True)

    def progress(self) -> Progress:
        """How far the choices are together; may be called from any thread."""
        return Progress(sum(self._num_seen), len(self.finishes))

    def stay(self) -> Stay:
        """When the request was with the engine, as the choice that ended last tells it."""
        finish, ended = self._last_end or (None, None)
        return Stay(self._started, ended, None if finish is None else finish.timings)

    def usage(self) -> Usage:
        """Tokens of all choices; each prompt counted once, and only if the engine took it."""
        n = self._accepted.demand.n
        prompt_tokens = cached_tokens = 0
        for position, prompt in enumerate(self._accepted.prompts):
            group = range(position * n, position * n + n)
            ends = [self.finishes[index].usage for index in group if index in self.finishes]
            prompt_tokens += max((one.prompt_tokens for one in ends), default=0)
            cached_tokens += ends[0].cached_tokens if ends else 0
            if not ends and any(self._num_seen[index] for index in group):
                prompt_tokens += len(prompt.token_ids)
        return Usage(prompt_tokens, cached_tokens, sum(self._completion_tokens()))

    def timings(self) -> Timings:
        """One set of timings for the request: waits of the slowest to start, first token of the fastest."""
        all_timings = [finish.timings for finish in self.finishes.values()]
        if not all_timings:
            return Timings()
        firsts = [one.first_token_seconds for one in all_timings if one.first_token_seconds is not None]
        return Timings(
            queue_seconds=max(one.queue_seconds for one in all_timings),
            first_token_seconds=min(firsts, default=None),
            total_seconds=max(one.total_seconds for one in all_timings),
            inter_token_seconds=tuple(gap for one in all_timings for gap in one.inter_token_seconds),
            num_preemptions=sum(one.num_preemptions for one in all_timings),
        )

    def _completion_tokens(self) -> Sequence[int]:
        return [
            self.finishes[index].usage.completion_tokens if index in self.finishes else seen
            for index, seen in enumerate(self._num_seen)
        ]

    async def _pump(self, index: int) -> None:
        """Generate one choice into the inbox, asking for the next slice before this one runs out."""
        accepted = self._accepted
        prompt = accepted.prompts[index // accepted.demand.n]
        limit = min(accepted.demand.sampling.max_tokens or prompt.max_output_tokens, prompt.max_output_tokens)
        share = accepted.ticket.allowance // accepted.demand.num_choices
        allowance = self._take(min(accepted.slice_tokens, share))
        request = GenerateRequest(
            request_id=self._ids[index],
            revision=accepted.arm.revision,
            token_ids=prompt.token_ids,
            owner=Owner(id=accepted.caller.id, salt=accepted.caller.salt),
            sampling=accepted.demand.sampling,
            allowance=allowance,
        )
        try:
            async for event in self._engine.generate(request):
                if isinstance(event, Finish):
                    self.finishes[index] = event
                    self._last_end = event, time.monotonic()
                else:
                    self._num_seen[index] += len(event.token_ids)
                self._inbox.add(index, event)
                is_low = isinstance(event, Delta) and self._num_seen[index] + HEADROOM >= allowance
                if is_low and allowance < limit:
                    granted = await self._grant(min(accepted.slice_tokens, limit - allowance))
                    allowance += granted
                    limit = limit if granted else allowance
                    self._engine.extend(request.request_id, allowance=allowance, is_final=not granted)
            self._num_free += allowance - self._num_seen[index]
        except Exception as error:
            self._engine.abort(request.request_id)
            self._inbox.fail(error)  # raised where the choices are read

    async def _grant(self, wanted: int) -> int:
        """Up to `wanted` more tokens: the ticket's free ones first, then a new slice; 0: the budget is spent.

        Choices share the ticket, so what one was granted another may take; the sum is what counts.
        """
        ticket = self._accepted.ticket
        if not self._num_free:
            used = ticket.prompt_tokens + sum(self._num_seen)
            await extend(ticket, output_tokens=wanted, used_tokens=used)
        self._num_free += ticket.allowance - self._num_granted
        self._num_granted = ticket.allowance
        return self._take(wanted)

    def _take(self, wanted: int) -> int:
        taken = min(wanted, self._num_free)
        self._num_free -= taken
        return taken
