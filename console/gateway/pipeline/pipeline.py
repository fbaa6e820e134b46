"""The path of every generating request, whichever door it came by: REST, SSE, WebSocket and the playground
call it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from console.accounts.caller import Caller
from console.catalog.choose import Arm, choose
from console.deployments.load_on_demand import StillLoading, is_loaded, wake
from console.endpoint_registry import EndpointInfo
from console.gateway import drain
from console.gateway.errors import ApiError, from_engine_error, shutting_down
from console.gateway.pipeline.generation import Accepted, Choices, Transport
from console.gateway.pipeline.request import PipelineRequest, Prompt
from console.gateway.pipeline.settlement import finish_and_settle
from console.gateway.pipeline.spans import RequestTimeline
from console.keys.scopes import require
from console.limits.precheck import ask, check
from console.limits.reserve import LimitExceeded, reserve
from inference import client
from inference.protocol.errors import ContextLengthExceeded, NotReady, RequestRejected, UnknownRevision
from inference.protocol.events import Event, Finish, FinishReason, Usage
from inference.protocol.requests import TokenizedPrompt, TokenizeRequest
from monitoring import tracing
from monitoring.live import BOARD, InFlight

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
class KeepAlive:
    """Nothing new for a while; the connection should see a sign of life."""


@dataclass(frozen=True, slots=True)
class Settled:
    """The usage row is durable; nothing comes after this."""

    usage: Usage


PipelineEvent = ChoiceEvent | KeepAlive | Settled
PipelineEvents = AsyncGenerator[PipelineEvent, None]


async def accept(
    *,
    endpoint: EndpointInfo,
    caller: Caller,
    request: PipelineRequest,
    transport: Transport,
    arrived: float,
) -> Accepted:
    """Permit, choose, wake, ask, tokenize, reserve; then `run` must be called.

    Raises what `errors.as_api_error` knows.

    `arrived`: time.monotonic() when the request had come in, before anything was done about it.
    """
    timeline = RequestTimeline(arrived)
    if drain.is_draining():
        raise shutting_down()
    require(endpoint.scope, caller=caller)
    timeline.end("parse")
    asked = Asked(caller)
    arm, lease, prompts = await _reach(asked=asked, request=request, timeline=timeline)
    try:
        request = request.with_defaults(prompts[0].sampling)
        return await _let_in(endpoint, asked, request, transport, timeline, arm, lease, prompts)
    except BaseException:
        lease.release()
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


async def _reach(
    *, asked: Asked, request: PipelineRequest, timeline: RequestTimeline
) -> tuple[Arm, drain.RevisionLease, tuple[TokenizedPrompt, ...]]:
    """Choose a revision, wait until it is in memory, tokenize the prompts.

    Once more from the start where it vanished in between.
    """
    for has_another_try in (True, False):
        arm = await choose(caller=asked.caller, model=request.model, user=request.user)
        timeline.end("choose")
        lease = drain.RevisionLease(arm.revision)
        try:
            if not is_loaded(arm.revision):
                await check(asked.caller)  # or it would be loaded for a request that is refused then
            if await wake(arm.revision):
                timeline.end("load")
            await asked.once()
            prompts = tuple([await _tokenize(arm, prompt) for prompt in request.prompts])
        except BaseException as error:
            lease.release()
            has_vanished = isinstance(error, UnknownRevision | NotReady) and not is_loaded(arm.revision)
            is_told = isinstance(error, StillLoading)  # it has waited long enough
            if not (has_another_try and has_vanished and not is_told):
                raise
        else:
            timeline.end("prepare")
            return arm, lease, prompts
    raise AssertionError("the second try returns or raises")


async def _let_in(
    endpoint: EndpointInfo,
    asked: Asked,
    request: PipelineRequest,
    transport: Transport,
    timeline: RequestTimeline,
    arm: Arm,
    lease: drain.RevisionLease,
    prompts: tuple[TokenizedPrompt, ...],
) -> Accepted:
    """Reserve. Raises `LimitExceeded`."""
    _require_room(request, prompts)
    request_id = f"{endpoint.id_prefix}-{uuid.uuid4().hex}"
    can_grant = client.current().capabilities(arm.revision).can_grant
    slice_tokens = _slice_tokens(request, prompts, can_grant=can_grant)
    created_at = time.time() - (time.monotonic() - timeline.arrived)
    ticket = await reserve(
        caller=asked.caller,
        request_id=request_id,
        prompt_tokens=sum(len(one.token_ids) for one in prompts),
        output_tokens=slice_tokens * request.num_choices,
        model=arm.model,
        revision=arm.revision,
        endpoint=endpoint.name,
        transport=transport,
        is_counted=asked.is_counted,
    )
    timeline.end("reserve")
    accepted = Accepted(
        request_id,
        endpoint,
        asked.caller,
        request,
        arm,
        prompts,
        transport,
        slice_tokens,
        created_at,
        timeline,
        ticket,
        lease,
        tracing.here(),
        can_grant,
    )
    if ticket.granted_tokens < request.num_choices:
        error = LimitExceeded(
            "This key's budget has not one token left for each choice.",
            code="insufficient_quota",
            retry_after_seconds=None,
        )
        await asyncio.shield(drain.shielded_task(finish_and_settle(accepted, None, error=error)))
        raise error
    return accepted


async def run(accepted: Accepted) -> PipelineEvents:
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
                yield KeepAlive()
                continue
            index, event = item
            if isinstance(event, Finish):
                _raise_if_failed(event, in_flight)
            accepted.begin_answer()
            if choices.is_over():
                settled = drain.shielded_task(finish_and_settle(accepted, choices, error=None))
                await asyncio.shield(settled)
            yield ChoiceEvent(index, event)
        yield Settled(choices.usage())
    except Exception as raised:
        error = raised
        raise
    finally:
        try:
            if settled is None:
                await asyncio.shield(drain.shielded_task(finish_and_settle(accepted, choices, error=error)))
        finally:
            BOARD.leave(in_flight)
            accepted.lease.release()


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
        arrived=accepted.timeline.arrived,
        progress=choices.progress,
        abort=choices.abort,
    )


async def _tokenize(arm: Arm, prompt: Prompt) -> TokenizedPrompt:
    request = TokenizeRequest(
        revision=arm.revision,
        messages=prompt.messages,
        text=prompt.text,
        token_ids=prompt.token_ids,
        wants_text=prompt.wants_text,
    )
    try:
        return await client.current().tokenize(request)
    except RequestRejected as rejected:
        if rejected.param in (None, "prompt", "messages"):
            rejected.param = prompt.param  # of several prompts, the one at fault
        raise


def _require_room(request: PipelineRequest, prompts: tuple[TokenizedPrompt, ...]) -> None:
    """Raises `ContextLengthExceeded` with the field that asked for more output than a prompt leaves."""
    wanted = request.sampling.max_tokens or 0
    for prompt in prompts:
        if wanted > prompt.max_output_tokens:
            raise ContextLengthExceeded(
                f"the prompt has {len(prompt.token_ids)} tokens and leaves {prompt.max_output_tokens} of the "
                f"context; {request.max_tokens_param} asks for {wanted}",
                param=request.max_tokens_param,
            )


def _slice_tokens(request: PipelineRequest, prompts: tuple[TokenizedPrompt, ...], *, can_grant: bool) -> int:
    """Output tokens reserved for each choice before it starts; all of them where no more can be granted."""
    most = min(one.max_output_tokens for one in prompts)
    most = min(most, request.max_tokens or most)
    return min(most, SLICE_TOKENS) if can_grant else most


def _raise_if_failed(finish: Finish, in_flight: InFlight) -> None:
    if finish.reason is FinishReason.FAILED:
        raise from_engine_error(finish.error)
    if finish.reason is FinishReason.CANCELLED:  # not by this client, who would no longer be listening
        if drain.is_draining():
            raise shutting_down()
        why = "by an operator" if in_flight.is_cancelled else "its key or model was withdrawn"
        raise ApiError(403, "request_cancelled", f"This request was cancelled: {why}.")
