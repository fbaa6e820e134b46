"""The events of an executed request, from the engine's queue to the response."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import NamedTuple

from inference.protocol.events import Event, Usage


class ChoiceEvent(NamedTuple):
    """Something new of one choice; one for each token, so a tuple."""

    choice: int  # its index
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
