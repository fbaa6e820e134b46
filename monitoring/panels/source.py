"""Where panels come from now: Prometheus where it is configured and answers, else this process."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from monitoring.panels.drawing import Drawn, Wanted, draw_own, draw_prometheus
from monitoring.panels.panel import Panel
from monitoring.panels.range_query import Prometheus, Unreachable
from monitoring.panels.recorder import RECORDER, Recorder

logger = logging.getLogger(__name__)
SILENCE_SECONDS = 15.0  # a Prometheus that failed is not asked again by every viewer's every refresh


@dataclass(frozen=True, slots=True)
class Answer:
    """Panels, where they come from, and why not from Prometheus where that was asked."""

    drawn: Sequence[Drawn]
    is_own: bool
    fault: str = ""


class Source:
    """Answers panels. `prometheus_url` empty: from this process alone."""

    def __init__(self, *, prometheus_url: str, recorder: Recorder = RECORDER) -> None:
        self._url = prometheus_url
        self._recorder = recorder
        self._fault = ""
        self._silent_until = 0.0

    async def answer(self, panels: Sequence[Panel], wanted: Wanted) -> Answer:
        now = time.time()
        if self._url and time.monotonic() >= self._silent_until:
            try:
                return Answer(await self._ask(panels, wanted, now), is_own=False)
            except Unreachable as error:
                self._fault, self._silent_until = str(error), time.monotonic() + SILENCE_SECONDS
                logger.warning("Prometheus cannot be asked: %s", error)
        drawn = await asyncio.to_thread(self._own, panels, wanted, now)
        return Answer(drawn, is_own=True, fault=self._fault if self._url else "")

    async def _ask(self, panels: Sequence[Panel], wanted: Wanted, now: float) -> list[Drawn]:
        async with Prometheus(self._url) as prometheus:
            asked = (draw_prometheus(panel, wanted, prometheus, now=now) for panel in panels)
            return list(await asyncio.gather(*asked))

    def _own(self, panels: Sequence[Panel], wanted: Wanted, now: float) -> list[Drawn]:
        return [draw_own(panel, wanted, self._recorder, now=now) for panel in panels]


@lru_cache(maxsize=4)
def source(prometheus_url: str) -> Source:
    """The process's one for this address: pages and API share what it knows of a Prometheus that fails."""
    return Source(prometheus_url=prometheus_url)
