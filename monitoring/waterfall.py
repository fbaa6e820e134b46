"""A request's spans, as the ledger keeps them -> the rows of a waterfall and the figures that explain it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["own", "wait", "prefill", "decode", "deliver"]

KINDS: dict[str, Kind] = {
    "load": "wait",
    "handover": "wait",
    "queue": "wait",
    "preempted": "wait",
    "allowance": "wait",
    "prefill": "prefill",
    "decode": "decode",
    "engine": "decode",
    "rest": "decode",
    "deliver": "deliver",
}
ANSWER = "answer"  # of no length: when the answer began to leave
LEAST_PERCENT = 0.4  # so that the shortest span can still be seen


@dataclass(frozen=True, slots=True)
class Row:
    """A span and where its bar lies, in percent of the whole."""

    name: str
    kind: Kind
    start: float  # seconds since arrival
    seconds: float
    x: float
    width: float
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Waterfall:
    """All of a request's time: the rows sum to `total`."""

    rows: tuple[Row, ...]
    total: float
    answer: float | None  # seconds until the answer began to leave; None: it left whole, at the end

    @property
    def answer_x(self) -> float | None:
        return None if self.answer is None or not self.total else 100 * min(1.0, self.answer / self.total)

    def seconds(self, *names: str) -> float:
        """What the spans of these names took together."""
        return sum(row.seconds for row in self.rows if row.name in names)

    def percent(self, *names: str) -> float:
        return 100 * self.seconds(*names) / self.total if self.total else 0.0

    def count(self, name: str) -> int:
        return sum(row.name == name for row in self.rows)

    def largest(self, name: str, attribute: str) -> int:
        """The largest value of an attribute among the spans of a name; 0: none has it."""
        values = (row.attributes.get(attribute, 0) for row in self.rows if row.name == name)
        return max(values, default=0)

    def sum(self, name: str, attribute: str) -> int:
        return sum(row.attributes.get(attribute, 0) for row in self.rows if row.name == name)

    def main_reason(self, *names: str) -> str:
        """Why the longest of these spans waited; "": not known, or there was nothing to wait for."""
        told = [row for row in self.rows if row.name in names and row.attributes.get("reason")]
        longest = max(told, key=lambda row: row.seconds, default=None)
        return str(longest.attributes["reason"]) if longest else ""


def waterfall(spans: Iterable[Mapping[str, Any]]) -> Waterfall:
    """Spans in order, each with name, start, end and attributes. Spans without length are left out."""
    known = list(spans)
    total = max((float(one["end"]) for one in known), default=0.0)
    rows = tuple(_row(one, total) for one in known if one["name"] != ANSWER and one["end"] > one["start"])
    answer = next((float(one["start"]) for one in known if one["name"] == ANSWER), None)
    return Waterfall(rows, total, answer)


def _row(span: Mapping[str, Any], total: float) -> Row:
    name, start, end = str(span["name"]), float(span["start"]), float(span["end"])
    width = max(LEAST_PERCENT, 100 * (end - start) / total)
    attributes = {key: value for key, value in span.items() if key not in ("name", "start", "end")}
    x = min(100 * start / total, 100 - width)
    return Row(name, KINDS.get(name, "own"), start, end - start, x, width, attributes)
