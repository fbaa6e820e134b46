"""What a panel is: a title, a unit, and lines that each ask one question."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from django.utils.functional import Promise

from monitoring.panels.query import Query, has_arm, names

Text = str | Promise


class Unit(Enum):
    """What a panel counts; the values are Grafana's names."""

    PER_SECOND = "reqps"
    PER_MINUTE = "cpm"
    TOKENS = "suffix: tokens/s"
    SECONDS = "s"
    SHARE = "percentunit"
    BYTES = "bytes"
    COUNT = "short"
    PERCENT = "percent"


@dataclass(frozen=True, slots=True)
class Line:
    """A question, and what its answers are called before the values of their labels."""

    query: Query
    label: Text = ""


@dataclass(frozen=True, slots=True)
class Panel:
    id: str
    title: Text
    description: Text
    unit: Unit
    lines: tuple[Line, ...]

    @property
    def has_arm(self) -> bool:
        return all(has_arm(line.query) for line in self.lines)

    def sample_names(self) -> Iterator[str]:
        for line in self.lines:
            yield from names(line.query)


@dataclass(frozen=True, slots=True)
class Group:
    """Panels that belong together: a heading in the console, a dashboard in Grafana."""

    id: str
    title: Text
    panels: tuple[Panel, ...]
