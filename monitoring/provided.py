"""Figures that others know, such as the console's database: read now and then, shown at every scrape.

A scrape must never wait for a database, so it shows what the last `refresh` read."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

logger = logging.getLogger(__name__)

Row = tuple[tuple[str, ...], float]  # values of the labels, and the figure


@dataclass(slots=True)
class Provided:
    """One gauge. `read` runs in the recorder's thread."""

    name: str
    help: str
    labels: tuple[str, ...]
    read: Callable[[], Iterable[Row]]
    rows: tuple[Row, ...] = field(default=())


class ProvidedCollector(Collector):
    """The gauges that were provided, as of the last refresh."""

    def __init__(self) -> None:
        self._gauges: dict[str, Provided] = {}
        self._lock = threading.Lock()

    def provide(
        self, *, name: str, help: str, labels: tuple[str, ...], read: Callable[[], Iterable[Row]]
    ) -> None:
        """Show a gauge from the next refresh on; the same name again replaces it."""
        with self._lock:
            self._gauges[name] = Provided(name, help, labels, read)

    def refresh(self) -> None:
        """Read every gauge anew. One that cannot be read shows nothing rather than yesterday's figures."""
        for gauge in self._known():
            try:
                gauge.rows = tuple(gauge.read())
            except Exception as error:
                gauge.rows = ()
                logger.warning("cannot read %s: %s", gauge.name, error)

    def describe(self) -> list[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        for gauge in self._known():
            family = GaugeMetricFamily(gauge.name, gauge.help, labels=gauge.labels)
            for values, figure in gauge.rows:
                family.add_metric(values, figure)
            yield family

    def _known(self) -> list[Provided]:
        with self._lock:
            return list(self._gauges.values())


PROVIDED = ProvidedCollector()
