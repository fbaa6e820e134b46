"""Executing an admitted request by generating text."""

from __future__ import annotations

from console.gateway import drain
from console.gateway.errors import ApiError, from_engine_error, shutting_down
from console.gateway.pipeline.accepted import Accepted
from console.gateway.pipeline.choices import Choices
from console.gateway.pipeline.events import KeepAlive, PipelineEvents, Settled
from console.gateway.pipeline.settlement import Settling
from inference import client
from inference.protocol.events import Finish, FinishReason
from monitoring.live import InFlight

PATIENCE_SECONDS = 1.0  # how long headers wait for a first event, so that a full queue is a plain 503
KEEP_ALIVE_SECONDS = 15.0


async def generate(accepted: Accepted) -> PipelineEvents:
    """Generate and settle. The usage row is durable before the last choice's finish leaves.

    Closing or cancelling it aborts the choices, counts what they used and settles. Raises what went wrong.
    """
    async with Settling(accepted) as settling:
        choices = Choices(accepted, client.current())
        in_flight = settling.begin(choices)
        patience = PATIENCE_SECONDS
        while not choices.is_over():
            event = await choices.next(patience)
            patience = KEEP_ALIVE_SECONDS
            if event is None:
                accepted.begin_answer()
                yield KeepAlive()
                continue
            if isinstance(event.event, Finish):
                _raise_if_failed(event.event, in_flight)
            accepted.begin_answer()
            if choices.is_over():
                await settling.settle()
            yield event
        yield Settled(choices.usage())


def _raise_if_failed(finish: Finish, in_flight: InFlight) -> None:
    if finish.reason is FinishReason.FAILED:
        raise from_engine_error(finish.error)
    if finish.reason is FinishReason.CANCELLED:  # not by this client, who would no longer be listening
        if drain.is_draining():
            raise shutting_down()
        why = "by an operator" if in_flight.is_cancelled else "its key or model was withdrawn"
        raise ApiError(403, "request_cancelled", f"This request was cancelled: {why}.")
