"""The engine requests of one accepted request: started together, fed slice by slice, ended together."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial

from console.gateway.pipeline.accepted import Accepted
from console.gateway.pipeline.event_queue import EventQueue
from console.gateway.pipeline.events import ChoiceEvent
from console.gateway.pipeline.request import PipelineRequest
from console.gateway.pipeline.spans import EngineStay
from console.limits.reserve import extend
from inference.client import Cancel, EngineClient
from inference.protocol.events import Delta, Event, Finish, Timings, Usage
from inference.protocol.requests import GenerateRequest, Owner
from monitoring.live import Progress

MOST_UNREAD_BYTES = 64 * 1024  # of a request's output, about, that wait for its reader
LEAST_WINDOW = 4  # tokens
TOKEN_BYTES = 64  # about, of text and id
LOGPROB_BYTES = 320  # about, of one of a token's log-probabilities, as an object and as JSON
HEADROOM = 64  # tokens before the end of a slice at which the next one is asked for
STOP_SECONDS = 5.0  # how long an aborted choice may take to report what it used

SEED_STEP = 0x9E3779B97F4A7C15  # odd, so that no two choices of a request meet


@dataclass(slots=True, eq=False)
class Choice:
    """One engine request, as far as it has come."""

    id: str  # the engine's request id
    limit: int  # output tokens that it may ever have
    granted_tokens: int  # of them, those that are granted
    window: int  # tokens that may wait for the reader
    num_seen: int = 0
    num_read: int = 0
    reach: int = 0  # tokens that the engine may make: what is granted, and no more than a window unread
    is_spent: bool = False  # the budget: nothing more is granted
    is_told: bool = False  # that it is
    ask_at: float = 0  # at so many tokens the next slice is asked for; infinity while it is, and at the limit
    is_over: bool = False
    cancel: Cancel = field(default=lambda: None)

    def grant(self, num_tokens: int) -> None:
        """So many tokens more; 0: the budget is spent."""
        self.granted_tokens += num_tokens
        self.is_spent = not num_tokens
        self.limit = self.limit if num_tokens else self.granted_tokens
        self.ask_at = self.granted_tokens - HEADROOM if self.granted_tokens < self.limit else math.inf

    def move(self) -> bool:
        """Let it reach as far as it may now. False: that is nothing worth telling the engine."""
        reach = min(self.granted_tokens, self.num_read + self.window)
        is_end = self.is_spent and reach == self.granted_tokens
        is_short = self.reach - self.num_seen <= self.window // 2
        is_news = reach > self.reach and (reach == self.granted_tokens or is_short)
        if not is_news and (not is_end or self.is_told):
            return False
        self.reach, self.is_told = max(reach, self.reach), is_end
        return True


class Choices:
    """Choice i continues prompt i // n. `_receive` is called for every token, so little is done there."""

    def __init__(self, accepted: Accepted, engine: EngineClient) -> None:
        self._accepted = accepted
        self._engine = engine
        self._events = EventQueue()
        self._num_granted = accepted.ticket.granted_tokens  # of the ticket's tokens, those counted so far
        self._num_free = accepted.ticket.granted_tokens  # those that no choice holds
        self._unread = set(range(accepted.request.num_choices))  # choices whose finish was not read yet
        self.finishes: dict[int, Finish] = {}
        self._started = time.monotonic()
        self._last_end: tuple[Finish, float] | None = None  # the finish that came last, and when
        self._asking: set[asyncio.Task[None]] = set()  # for the next slice
        self._at_rest = asyncio.Event()  # every choice is over, and nothing is asked for
        share = accepted.ticket.granted_tokens // accepted.request.num_choices
        self._choices = [self._choice(index, share=share) for index in range(accepted.request.num_choices)]
        for index, choice in enumerate(self._choices):
            choice.cancel = engine.stream(self._request(index), partial(self._receive, index))

    def is_over(self) -> bool:
        """True once the last choice's finish has been read."""
        return not self._unread

    async def next(self, seconds: float) -> ChoiceEvent | None:
        """The next event of any choice; None after `seconds` of silence. Raises what a choice was refused
        with.
        """
        item = await self._events.next(seconds)
        if item is None:
            return None
        if isinstance(item.event, Finish):
            self._unread.discard(item.choice)
        else:
            choice = self._choices[item.choice]
            choice.num_read += len(item.event.token_ids)
            self._move(choice)
        return item

    def abort(self) -> None:
        """Let the engine cancel what still runs; may be called from any thread."""
        for choice in self._choices:
            if not choice.is_over:
                self._engine.abort(choice.id)

    async def stop(self) -> None:
        """Abort what still runs and wait, not for long, until it has said what it used."""
        self.abort()
        self._events.close()
        try:
            async with asyncio.timeout(STOP_SECONDS):
                await self._at_rest.wait()
        except TimeoutError:
            for choice in self._choices:
                self._end(choice)
            for asking in self._asking:
                asking.cancel()
            await asyncio.gather(*self._asking, return_exceptions=True)

    def progress(self) -> Progress:
        """Of all choices together; may be called from any thread."""
        return Progress(sum(choice.num_seen for choice in self._choices), len(self.finishes))

    def engine_stay(self) -> EngineStay:
        """When the request was with the engine, as the choice that ended last tells it."""
        finish, ended = self._last_end or (None, None)
        return EngineStay(self._started, ended, None if finish is None else finish.timings)

    def usage(self) -> Usage:
        """Tokens of all choices; each prompt counted once, and only if the engine took it."""
        n = self._accepted.request.n
        prompt_tokens = cached_tokens = 0
        for position, prompt in enumerate(self._accepted.prompts):
            group = range(position * n, position * n + n)
            ends = [self.finishes[index].usage for index in group if index in self.finishes]
            prompt_tokens += max((one.prompt_tokens for one in ends), default=0)
            cached_tokens += ends[0].cached_tokens if ends else 0
            if not ends and any(self._choices[index].num_seen for index in group):
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
            self.finishes[index].usage.completion_tokens if index in self.finishes else choice.num_seen
            for index, choice in enumerate(self._choices)
        ]

    def _choice(self, index: int, *, share: int) -> Choice:
        accepted = self._accepted
        prompt = accepted.prompts[index // accepted.request.n]
        limit = min(accepted.request.max_tokens or prompt.max_output_tokens, prompt.max_output_tokens)
        choice = Choice(
            accepted.choice_ids[index], limit, granted_tokens=0, window=window_of(accepted.request)
        )
        choice.grant(self._take(min(accepted.slice_tokens, share)))
        if not accepted.can_grant:
            choice.grant(0)  # what is reserved is all there will be
        choice.move()
        return choice

    def _request(self, index: int) -> GenerateRequest:
        accepted = self._accepted
        sampling = accepted.request.sampling
        has_default = sampling.max_tokens is None and accepted.request.default_max_tokens is not None
        if has_default or not accepted.can_grant:
            limit = self._choices[index].limit
            sampling = replace(sampling, max_tokens=limit, min_tokens=min(sampling.min_tokens, limit))
        if sampling.seed is not None:
            sampling = replace(sampling, seed=seed_of_choice(sampling.seed, index % accepted.request.n))
        return GenerateRequest(
            request_id=self._choices[index].id,
            revision=accepted.arm.revision,
            token_ids=accepted.prompts[index // accepted.request.n].token_ids,
            owner=Owner(id=accepted.caller.id, salt=accepted.caller.salt),
            sampling=sampling,
            granted_tokens=self._choices[index].reach if accepted.can_grant else None,
        )

    def _receive(self, index: int, event: Event | Exception) -> None:
        """From the engine, on our loop."""
        choice = self._choices[index]
        if isinstance(event, Delta):
            choice.num_seen += len(event.token_ids)
            self._events.add(index, event)
            if choice.num_seen >= choice.ask_at:
                self._ask_for_more(choice)
        elif isinstance(event, Finish):
            self.finishes[index] = event
            self._last_end = event, time.monotonic()
            self._events.add(index, event)
            self._num_free += choice.granted_tokens - choice.num_seen
            self._end(choice)
        else:
            self._fail(choice, event)

    def _fail(self, choice: Choice, error: Exception) -> None:
        self._events.fail(error)  # raised where the choices are read
        self._end(choice)

    def _end(self, choice: Choice) -> None:
        """Nothing more is wanted of it, or to be had."""
        choice.is_over = True
        choice.cancel()
        self._rest()

    def _rest(self) -> None:
        if not self._asking and all(choice.is_over for choice in self._choices):
            self._at_rest.set()

    def _ask_for_more(self, choice: Choice) -> None:
        """The next slice, before this one runs out."""
        choice.ask_at = math.inf
        asking = asyncio.create_task(self._extend(choice), name=f"extend {choice.id}")
        self._asking.add(asking)
        asking.add_done_callback(self._has_asked)

    def _has_asked(self, asking: asyncio.Task[None]) -> None:
        self._asking.discard(asking)
        self._rest()

    async def _extend(self, choice: Choice) -> None:
        try:
            granted = await self._grant(
                min(self._accepted.slice_tokens, choice.limit - choice.granted_tokens)
            )
        except Exception as error:
            self._fail(choice, error)
            return
        if choice.is_over:
            self._num_free += granted  # it ended meanwhile: what it does not need others may take
            return
        choice.grant(granted)
        self._move(choice)

    def _move(self, choice: Choice) -> None:
        if self._accepted.can_grant and not choice.is_over and choice.move():
            self._engine.grant(choice.id, granted_tokens=choice.reach, is_final=choice.is_told)

    async def _grant(self, wanted: int) -> int:
        """Up to `wanted` more tokens: the ticket's free ones first, then a new slice; 0: the budget is spent.

        Choices share the ticket, so what one was granted another may take; the sum is what counts.
        """
        ticket = self._accepted.ticket
        if not self._num_free:
            used = ticket.prompt_tokens + sum(choice.num_seen for choice in self._choices)
            await extend(ticket, output_tokens=wanted, used_tokens=used)
        self._num_free += ticket.granted_tokens - self._num_granted
        self._num_granted = ticket.granted_tokens
        return self._take(wanted)

    def _take(self, wanted: int) -> int:
        taken = min(wanted, self._num_free)
        self._num_free -= taken
        return taken


def window_of(request: PipelineRequest) -> int:
    """Tokens of one choice that may wait for a reader. A request of many choices and log-probabilities has
    few: the engine pauses it where its reader does not come along."""
    num_logprobs = 0 if request.sampling.logprobs is None else 1 + request.sampling.logprobs
    token_bytes = TOKEN_BYTES + num_logprobs * LOGPROB_BYTES
    return max(LEAST_WINDOW, MOST_UNREAD_BYTES // (token_bytes * request.num_choices))


def seed_of_choice(seed: int, number: int) -> int:
    """The seed of a prompt's choice `number`: the same each time; the first one's is the request's."""
    return (seed + number * SEED_STEP + 2**63) % 2**64 - 2**63
