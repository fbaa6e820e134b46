"""Admission: what is decided about a request of any endpoint, by any transport, before it is executed."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass

from console.accounts.caller import Caller
from console.catalog.choose import Arm, choose
from console.deployments.load_on_demand import StillLoading, is_loaded, wake
from console.endpoint_registry import EndpointInfo
from console.gateway import drain
from console.gateway.errors import shutting_down
from console.gateway.pipeline.accepted import Accepted, Transport
from console.gateway.pipeline.request import PipelineRequest, Prompt
from console.gateway.pipeline.settlement import Settling
from console.gateway.pipeline.spans import RequestTimeline
from console.keys.scopes import require
from console.limits.precheck import count_request, require_room
from console.limits.reserve import LimitExceeded, reserve
from inference import client
from inference.protocol.errors import ContextLengthExceeded, NotReady, RequestRejected, UnknownRevision
from inference.protocol.requests import TokenizedPrompt, TokenizeRequest
from monitoring import tracing

SLICE_TOKENS = 256  # output tokens reserved at a time


async def admit(
    *,
    endpoint: EndpointInfo,
    caller: Caller,
    request: PipelineRequest,
    transport: Transport,
    arrived: float,
) -> Accepted:
    """Permit, choose a revision, load it, count, tokenize, reserve; then the request must be executed.

    Raises what `errors.as_api_error` knows.

    `arrived`: time.monotonic() when the request had come in, before anything was done about it.
    """
    timeline = RequestTimeline(arrived)
    if drain.is_draining():
        raise shutting_down()
    require(endpoint.scope, caller=caller)
    timeline.end("parse")
    return await _Admission(endpoint, caller, request, transport, timeline).admit()


@dataclass(frozen=True, slots=True)
class _Resolved:
    """A revision in memory, leased, and the prompts by its tokenizer."""

    arm: Arm
    lease: drain.RevisionLease
    prompts: tuple[TokenizedPrompt, ...]


@dataclass(slots=True)
class _Admission:
    """One permitted request on its way in."""

    endpoint: EndpointInfo
    caller: Caller
    request: PipelineRequest
    transport: Transport
    timeline: RequestTimeline
    has_counted: bool = False
    is_counted: bool = False  # against a rate of its key

    async def admit(self) -> Accepted:
        resolved = await self._resolve_revision()
        try:
            return await self._admit(resolved, self.request.with_defaults(resolved.prompts[0].sampling))
        except BaseException:
            resolved.lease.release()
            raise

    async def _resolve_revision(self) -> _Resolved:
        """Once more from the start where the revision was unloaded in between."""
        arm = await self._choose()
        try:
            return await self._load_and_tokenize(arm)
        except StillLoading:  # it has waited long enough
            raise
        except (UnknownRevision, NotReady):
            if is_loaded(arm.revision):
                raise
        return await self._load_and_tokenize(await self._choose())

    async def _choose(self) -> Arm:
        arm = await choose(caller=self.caller, model=self.request.model, user=self.request.user)
        self.timeline.end("choose")
        return arm

    async def _load_and_tokenize(self, arm: Arm) -> _Resolved:
        lease = drain.RevisionLease(arm.revision)
        try:
            if not is_loaded(arm.revision):
                await require_room(self.caller)  # or it would be loaded for a request that is refused then
            if await wake(arm.revision):
                self.timeline.end("load")
            await self._count_once()
            prompts = tuple([await _tokenize(arm, prompt) for prompt in self.request.prompts])
        except BaseException:
            lease.release()
            raise
        self.timeline.end("prepare")
        return _Resolved(arm, lease, prompts)

    async def _count_once(self) -> None:
        """Against the key's rate, before anything is done about a prompt. Raises `LimitExceeded`."""
        if not self.has_counted:
            self.is_counted = await count_request(self.caller)
            self.has_counted = True

    async def _admit(self, resolved: _Resolved, request: PipelineRequest) -> Accepted:
        """Reserve. Raises `LimitExceeded`."""
        _require_context(request, resolved.prompts)
        arm, prompts = resolved.arm, resolved.prompts
        request_id = f"{self.endpoint.id_prefix}-{uuid.uuid4().hex}"
        can_grant = client.current().capabilities(arm.revision).can_grant
        slice_tokens = _slice_tokens(request, prompts, can_grant=can_grant)
        created_at = time.time() - (time.monotonic() - self.timeline.arrived)
        ticket = await reserve(
            caller=self.caller,
            request_id=request_id,
            prompt_tokens=sum(len(one.token_ids) for one in prompts),
            output_tokens=slice_tokens * request.num_choices,
            model=arm.model,
            revision=arm.revision,
            endpoint=self.endpoint.name,
            transport=self.transport,
            is_counted=self.is_counted,
        )
        self.timeline.end("reserve")
        accepted = Accepted(
            request_id=request_id,
            endpoint=self.endpoint,
            caller=self.caller,
            request=request,
            arm=arm,
            prompts=prompts,
            transport=self.transport,
            slice_tokens=slice_tokens,
            created_at=created_at,
            timeline=self.timeline,
            ticket=ticket,
            lease=resolved.lease,
            place=tracing.here(),
            can_grant=can_grant,
        )
        if ticket.granted_tokens < request.num_choices:
            async with Settling(accepted):
                raise LimitExceeded(
                    "This key's budget has not one token left for each choice.",
                    code="insufficient_quota",
                    retry_after_seconds=None,
                )
        return accepted


def _slice_tokens(request: PipelineRequest, prompts: tuple[TokenizedPrompt, ...], *, can_grant: bool) -> int:
    """Output tokens reserved for each choice before it starts; all of them where no more can be granted."""
    most = min(one.max_output_tokens for one in prompts)
    most = min(most, request.max_tokens or most)
    return min(most, SLICE_TOKENS) if can_grant else most


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


def _require_context(request: PipelineRequest, prompts: tuple[TokenizedPrompt, ...]) -> None:
    """Raises `ContextLengthExceeded` with the field that asked for more output than a prompt leaves."""
    wanted = request.sampling.max_tokens or 0
    for prompt in prompts:
        if wanted > prompt.max_output_tokens:
            raise ContextLengthExceeded(
                f"the prompt has {len(prompt.token_ids)} tokens and leaves {prompt.max_output_tokens} of the "
                f"context; {request.max_tokens_param} asks for {wanted}",
                param=request.max_tokens_param,
            )
