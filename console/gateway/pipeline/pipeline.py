"""The path of every generating request, whichever door it came by: REST, SSE, WebSocket and the playground
call it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from console.catalog.choose import Arm, choose
from console.deployments.load_on_demand import StillLoading, is_loaded, wake
from console.gateway import drain
from console.gateway.errors import ApiError, from_engine_error, shutting_down
from console.gateway.pipeline.generation import Accepted, Choices, Transport
from console.gateway.pipeline.request import Demand, Prompt
from console.gateway.pipeline.settlement import conclude
from console.gateway.pipeline.spans import Laps
from console.keys.caller import Caller
from console.keys.scopes import Scope, require
from console.limits.precheck import ask, check
from console.limits.reserve import LimitExceeded, reserve
from inference import client
from inference.protocol.errors import ContextLengthExceeded, NotReady, Refusal, UnknownRevision
from inference.protocol.events import Event, Finish, FinishReason, Usage
from inference.protocol.requests import Prepared, PrepareRequest
from monitoring import tracing
from monitoring.live import BOARD, InFlight

SCOPES = {"chat.completions": Scope.CHAT, "completions": Scope.COMPLETIONS}
SLICE_TOKENS = 256  # output tokens reserved at a time
PATIENCE_SECONDS = (
    1.0  # how long an answer's headers wait for a first event, so that a full queue is a plain 503
)
KEEP_ALIVE_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class ChoiceEvent:
    """Something new of one choice."""

    index: int
    event: Event


@dataclass(frozen=True, slots=True)
class Silence:
    """Nothing new for a while; the connection should see a sign of life."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The usage row is durable; nothing comes after this."""

    usage: Usage


Step = ChoiceEvent | Silence | Settled
Steps = AsyncGenerator[Step, None]


async def accept(*, caller: Caller, demand: Demand, transport: Transport, arrived: float) -> Accepted:
    """Permit, choose, wake, ask, prepare, reserve; then `run` must be called.

    Raises what `errors.as_api_error` knows.

    `arrived`: time.monotonic() when the request had come in, before anything was done about it.
    """
    laps = Laps(arrived)
    if drain.is_draining():
        raise shutting_down()
    require(SCOPES[demand.endpoint], caller=caller)
    laps.end("parse")
    asked = Asked(caller)
    arm, hold, prompts = await _reach(asked=asked, demand=demand, laps=laps)
    try:
        demand = demand.with_defaults(prompts[0].sampling)
        return await _let_in(asked, demand, transport, laps, arm, hold, prompts)
    except BaseException:
        hold.release()
        raise


class Asked:
    """A caller whose rates are asked once, before anything is done about a prompt."""

    def __init__(self, caller: Caller) -> None:
        self.caller = caller
        self.is_counted = False
        self._is_asked = False

    async def once(self) -> None:
        """Raises `LimitExceeded`."""
        if not self._is_asked:
            self.is_counted = await ask(self.caller)
            self._is_asked = True


async def _reach(*, asked: Asked, demand: Demand, laps: Laps) -> tuple[Arm, drain.Hold, tuple[Prepared, ...]]:
    """Choose a revision, wait until it is in memory, prepare the prompts with its tokenizer.

    Once more from the start where it vanished in between.
    """
    for has_another_try in (True, False):
        arm = await choose(caller=asked.caller, model=demand.model, user=demand.user)
        laps.end("choose")
        hold = drain.Hold(arm.revision)
        try:
            if not is_loaded(arm.revision):
                await check(asked.caller)  # or it would be loaded for a request that is refused then
            if await wake(arm.revision):
                laps.end("load")
            await asked.once()
            prompts = tuple([await _prepare(arm, prompt) for prompt in demand.prompts])
        except BaseException as error:
            hold.release()
            has_vanished = isinstance(error, UnknownRevision | NotReady) and not is_loaded(arm.revision)
            is_told = isinstance(error, StillLoading)  # it has waited long enough
            if not (has_another_try and has_vanished and not is_told):
                raise
        else:
            laps.end("prepare")
            return arm, hold, prompts
    raise AssertionError("the second try returns or raises")


async def _let_in(
    asked: Asked,
    demand: Demand,
    transport: Transport,
    laps: Laps,
    arm: Arm,
    hold: drain.Hold,
    prompts: tuple[Prepared, ...],
) -> Accepted:
    """Reserve. Raises `LimitExceeded`."""
    _require_room(demand, prompts)
    request_id = f"{'chatcmpl' if demand.endpoint == 'chat.completions' else 'cmpl'}-{uuid.uuid4().hex}"
    slice_tokens = min([SLICE_TOKENS, demand.max_tokens or SLICE_TOKENS, *_rooms(prompts)])
    created_at = time.time() - (time.monotonic() - laps.arrived)
    ticket = await reserve(
        caller=asked.caller,
        request_id=request_id,
        prompt_tokens=sum(len(one.token_ids) for one in prompts),
        output_tokens=slice_tokens * demand.num_choices,
        model=arm.model,
        revision=arm.revision,
        endpoint=demand.endpoint,
        transport=transport,
        is_counted=asked.is_counted,
    )
    laps.end("reserve")
    accepted = Accepted(
        request_id,
        asked.caller,
        demand,
        arm,
        prompts,
        transport,
        slice_tokens,
        created_at,
        laps,
        ticket,
        hold,
        tracing.here(),
    )
    if ticket.allowance < demand.num_choices:
        error = LimitExceeded(
            "This key's budget has not one token left for each choice.",
            code="insufficient_quota",
            retry_after_seconds=None,
        )
        await asyncio.shield(drain.keep(conclude(accepted, None, error=error)))
        raise error
    return accepted


async def run(accepted: Accepted) -> Steps:
    """Generate and settle. The usage row is durable before the last choice's finish leaves.

    Closing or cancelling it aborts the choices, counts what they used and settles. Raises what went wrong.
    """
    choices = Choices(accepted, client.current())
    in_flight = BOARD.enter(_in_flight(accepted, choices))
    settled: asyncio.Task[None] | None = None
    error: Exception | None = None
    patience = PATIENCE_SECONDS
    try:
        while not choices.is_over():
            item = await choices.next(patience)
            patience = KEEP_ALIVE_SECONDS
            if item is None:
                accepted.begin_answer()
                yield Silence()
                continue
            index, event = item
            if isinstance(event, Finish):
                _raise_if_failed(event, in_flight)
            accepted.begin_answer()
            if choices.is_over():
                settled = drain.keep(conclude(accepted, choices, error=None))
                await asyncio.shield(settled)
            yield ChoiceEvent(index, event)
        yield Settled(choices.usage())
    except Exception as raised:
        error = raised
        raise
    finally:
        try:
            if settled is None:
                await asyncio.shield(drain.keep(conclude(accepted, choices, error=error)))
        finally:
            BOARD.leave(in_flight)
            accepted.hold.release()


def _in_flight(accepted: Accepted, choices: Choices) -> InFlight:
    return InFlight(
        request_id=accepted.request_id,
        choice_ids=accepted.choice_ids,
        owner=accepted.caller.id,
        owner_name=accepted.caller.name,
        model=accepted.arm.model,
        revision=accepted.arm.revision,
        transport=accepted.transport,
        prompt_tokens=sum(len(one.token_ids) for one in accepted.prompts),
        arrived=accepted.laps.arrived,
        progress=choices.progress,
        abort=choices.abort,
    )


async def _prepare(arm: Arm, prompt: Prompt) -> Prepared:
    request = PrepareRequest(
        revision=arm.revision,
        messages=prompt.messages,
        text=prompt.text,
        token_ids=prompt.token_ids,
        wants_text=prompt.wants_text,
    )
    try:
        return await client.current().prepare(request)
    except Refusal as refusal:
        if refusal.param in (None, "prompt", "messages"):
            refusal.param = prompt.param  # of several prompts, the one at fault
        raise


def _require_room(demand: Demand, prompts: tuple[Prepared, ...]) -> None:
    """Raises `ContextLengthExceeded` with the field that asked for more output than a prompt leaves."""
    wanted = demand.sampling.max_tokens or 0
    for prompt in prompts:
        if wanted > prompt.max_output_tokens:
            raise ContextLengthExceeded(
                f"the prompt has {len(prompt.token_ids)} tokens and leaves {prompt.max_output_tokens} of the "
                f"context; {demand.max_tokens_param} asks for {wanted}",
                param=demand.max_tokens_param,
            )


def _rooms(prompts: tuple[Prepared, ...]) -> list[int]:
    return [one.max_output_tokens for one in prompts]


def _raise_if_failed(finish: Finish, in_flight: InFlight) -> None:
    if finish.reason is FinishReason.FAILED:
        raise from_engine_error(finish.error)
    if finish.reason is FinishReason.CANCELLED:  # not by this client, who would no longer be listening
        if drain.is_draining():
            raise shutting_down()
        why = "by an operator" if in_flight.is_cancelled else "its key or model was withdrawn"
        raise ApiError(403, "request_cancelled", f"This request was cancelled: {why}.")
